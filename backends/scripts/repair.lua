-- Changes entries of a repository, unless it has changed since it was looked
-- at, and logs each repair.
--
-- KEYS  see the prelude; 8 what was moved aside
-- ARGV  6 sequence that it had  7 actor  8 cause  9 number of changes
--       then for each change: command, key, and two arguments, the second may
--       be empty; then for each repair: resource, owner, token and expiry of its
--       lock, "1" if the lock is there still, and the reason
--
-- Answers  repaired, or again
if int(SEQUENCE) ~= ARGV[6] then return finish('again') end
prepare()
local keys = { meta = META, locks = LOCKS, deadlines = DEADLINES, owners = OWNERS, memory = MEMORY, forget = FORGET, aside = KEYS[8] }
local at = 10
for _ = 1, tonumber(ARGV[9]) do
  local command, key, a, b = ARGV[at], keys[ARGV[at + 1]], ARGV[at + 2], ARGV[at + 3]
  if command == 'HSET' then
    redis.call('HSET', key, a, b)
  elseif command == 'HDEL' then
    redis.call('HDEL', key, a)
  elseif command == 'ZADD' then
    redis.call('ZADD', key, b, a)
  elseif command == 'ZREM' then
    redis.call('ZREM', key, a)
  end
  at = at + 4
end
meta = redis.call('HMGET', META, 'name', 'token', 'sequence')
TOKEN, SEQUENCE = tonumber(meta[2] or '0'), tonumber(meta[3] or '0')
while at < #ARGV do
  local resource, owner, token, expires, stays, reason = unpack(ARGV, at, at + 5)
  local r = { owner = owner, token = token, expires = expires }
  append('repaired', resource, { actor = ARGV[7], cause = ARGV[8], reason = reason }, r, stays == '1' and r or nil)
  at = at + 6
end
return finish('repaired')
