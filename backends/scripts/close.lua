-- Keeps a pull request that was closed from taking locks.
--
-- KEYS  see the prelude
-- ARGV  7 owner  8 number of the pull request  9 head commit that a run may be at
--       work on
--
-- Answers  marked when all its locks were released within the last minute: what it
--          has taken since is to be released, too; else closed
load()
S.runs().bury(ARGV[7], ARGV[9])
return finish(S.runs().isMarked(ARGV[8]) and 'marked' or 'closed')
