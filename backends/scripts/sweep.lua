-- Trims the log and the memory of a repository.
--
-- KEYS  see the prelude
-- ARGV  7 how much of each at most
--
-- Answers  swept
load()
if S.known then tidy(ARGV[7] + 0) end
return finish('swept')
