-- Trims the log and the memory of a repository, and takes out of its queue what is
-- over.
--
-- KEYS  see the prelude
-- ARGV  7 how much of each at most  8 member of the queue after which to go on,
--       empty for the beginning
--
-- Answers  swept MEMBER, or swept "" at the end
load()
if not S.known then return finish('swept', '') end
if ARGV[8] == '' then tidy(ARGV[7] + 0) end
return finish('swept', S.runs().sweep(ARGV[7] + 0, ARGV[8]))
