-- Ends a deadlock, after a look at each wait of its cycle. It is judged by the picture
-- of waits.lua: whether moving waiters is enough.
--
-- KEYS  see the prelude, with the resources that are to be freed
-- ARGV  7 "look" to do nothing, "found" to log it, or "end"
--       8 request that it is about; with "end" it is the victim's
--       9 DeadlockCheckLimit  10 number of waits, 4 parts each from 14 on: owner,
--       resource, request, and the owner that is waited for
--       11 digest of the picture that the rest is about, empty for none  12 record of
--       the deadlock  13 number of requests that are moved, none to take the victim
--       out; they follow the waits, then the reason for which the victim's locks are
--       freed, and resources
--
-- Answers  ended
--          confirmed                    all of these waits are there
--          walked DIGEST PICTURE LIMIT  this is to be judged, and asked again
--          gone                         one of these waits is not there any more
load()
if S.waiters == 0 then return finish('gone') end
local mode, about, count, moves = ARGV[7], ARGV[8], ARGV[10] + 0, ARGV[13] + 0
S.waits().prepare(ARGV[15])
for i = 1, count do
  if not S.waits().confirms(unpack(ARGV, 10 + 4 * i, 13 + 4 * i)) then return finish('gone') end
end
if mode == 'look' then return finish('confirmed') end
local w = S.queue().load(about)
if not w then return finish('gone') end
if mode == 'found' then
  S.waits().record(w, 'system:store', 'deadlock', ARGV[12])
  return finish('ended')
end
local _, picture, digest, limit = S.waits().walk(w, ARGV[9] + 0, nil, false, true)
if digest ~= ARGV[11] then return finish('walked', digest, picture, limit) end
local after = 14 + 4 * count
if moves > 0 then
  -- It is about one who goes before others now, and about no victim.
  w = S.queue().load(ARGV[after])
  if not w then return finish('gone') end
  S.waits().record(w, 'system:store', 'deadlock', ARGV[12])
  S.waits().moveTogether({ unpack(ARGV, after, after + moves - 1) })
  return finish('ended')
end
S.queue().dequeue(w, 'deadlock', 'system:store', 'deadlock', 'deadlock', ARGV[12])
for i = after + 1, #ARGV do
  local resource = ARGV[i]
  local mirror, old = stockKeys(i - after)
  local parts = call('HMGET', KEYS[1], 'l' .. resource, 'd' .. resource)
  local status, r, stock = settle(resource, parts[1], parts[2], mirror, old)
  if status == 'held' and r.owner == w.owner then
    finishLock(resource, r, 'released', 'system:store', 'forced', ARGV[after], mirror, stock)
    serve(resource, mirror, old)
  end
end
return finish('ended')
