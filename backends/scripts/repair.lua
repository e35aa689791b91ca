-- Changes entries of a repository, unless it has changed since it was looked
-- at, and logs each repair. Not all that changes is logged, so each entry is
-- compared, too.
--
-- KEYS  see the prelude; 5 what was moved aside
-- ARGV  7 sequence that it had  8 actor  9 cause  10 number of changes
--       then for each change: command, key, two arguments, the second may be
--       empty, and what was there, "" for nothing; then for each repair: resource, owner, token and expiry of its
--       lock, "1" if the lock is there still, and the reason
--
-- Answers  repaired, or again
-- Counters that can't be read, too: what they count comes with the changes.
S.mends = true
load()
-- The order is that of count in the prelude.
local order, seen = {}, {}
for name in string.gmatch('token sequence locks ended wake waiters gone kept closing sets twice forgotten trimmed', '%S+') do order[#order + 1] = name end
for word in string.gmatch(S.counters or '', '%S+') do seen[order[#seen + 1] or ''], seen[#seen + 1] = word, word end
if #seen ~= #order then seen = {} end
if (seen.sequence or '0') ~= ARGV[7] then return finish('again') end
local keys = { state = KEYS[1], deadlines = KEYS[2], queue = KEYS[4], aside = KEYS[5] }
local count = tonumber(ARGV[10])
for at = 11, 6 + 5 * count, 5 do
  local command, key, a, b = ARGV[at], keys[ARGV[at + 1]], ARGV[at + 2], ARGV[at + 4]
  if command == 'COUNT' then
    if (seen[a] or '') ~= b then return finish('again') end
  elseif ARGV[at + 1] ~= 'aside' and sub(command, 1, 1) == 'H' then
    if (call('HGET', key, a) or '') ~= b then return finish('again') end
  elseif ARGV[at + 1] ~= 'aside' then
    local score = call('ZSCORE', key, a)
    if (score and true or false) ~= (b ~= '') then return finish('again') end
    -- All in the queue should have one score, which is no part of what was seen.
    if score and key ~= KEYS[4] and math.abs(score) < 2 ^ 53 and math.abs(score - b) >= 1 then return finish('again') end
  end
end
prepare(true, true)
-- Works while the server has no memory left, see append.
call('HDEL', KEYS[1], '')
local at = 11
for _ = 1, count do
  local command, key, a, b = ARGV[at], keys[ARGV[at + 1]], ARGV[at + 2], ARGV[at + 3]
  if command == 'COUNT' then
    S[a] = b + 0
    if a == 'ended' then S.uncounted = false end
    store()
  elseif command == 'HSET' then
    call('HSET', key, a, b)
  elseif command == 'HDEL' then
    call('HDEL', key, a)
  elseif command == 'ZADD' then
    call('ZADD', key, b, a)
  elseif command == 'ZREM' then
    call('ZREM', key, a)
  end
  at = at + 5
end
if S.changed then store() end
load()
while at < #ARGV do
  local resource, owner, token, expires, stays, reason = unpack(ARGV, at, at + 5)
  local r = { owner = owner, token = token, expires = expires }
  append('repaired', resource, ARGV[8], ARGV[9], '', reason, r, stays == '1' and r or nil)
  at = at + 6
end
return finish('repaired')
