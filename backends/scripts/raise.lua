-- Raises the last token of a repository, so that every later one is larger. It
-- is no change of a lock, so the log has no record of it.
--
-- KEYS  see the prelude
-- ARGV  7 token
--
-- Answers  raised
load()
if S.token < tonumber(ARGV[7]) then
  prepare(false, false)
  S.token = tonumber(ARGV[7])
  store()
end
return finish('raised')
