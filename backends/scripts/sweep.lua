-- Trims the log and the memory of a repository.
--
-- KEYS  see the prelude
-- ARGV  6 how much of each at most
--
-- Answers  swept
if not known then return finish('swept') end
prepare()
trim(tonumber(ARGV[6]))
forget(tonumber(ARGV[6]))
return finish('swept')
