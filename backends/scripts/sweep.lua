-- Trims the log and the memory of a repository.
--
-- KEYS  see the prelude
-- ARGV  7 how much of each at most
--
-- Answers  swept
if not known then return finish('swept') end
prepare(true)
tidy(ARGV[7] + 0)
return finish('swept')
