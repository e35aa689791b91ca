-- Takes a set out of the queue.
--
-- KEYS  see the prelude
-- ARGV  7 event  8 owner  9 process that it waits in  from 10 on two for each of the
--       set's requests: resource and request
--
-- Answers  left PLACE LENGTH RESOURCE LOCK  its first waiter stood there; RESOURCE is
--                        the first that is held, by LOCK; these are empty for none
--          has LOCK ...  it has got the locks
--          ended LOCK ...  it had got locks, and one of them has ended, which has two
--                      empty parts
--          gone          it is not in the queue, and will not be, see leave.lua
load()
local set = ARGV[11]
local w = S.waiters > 0 and S.queue().load(set)
if w and w.set == set then
  if w.process ~= ARGV[9] then return finish('gone') end
  local number, length = S.queue().placeOf(w)
  local resource, header, details = '', false, false
  for i = 10, #ARGV, 2 do
    local parts = not header and call('HMGET', KEYS[1], 'l' .. ARGV[i], 'd' .. ARGV[i])
    if parts and parts[1] then resource, header, details = ARGV[i], parts[1], parts[2] end
  end
  S.whole().dequeue(w, ARGV[7], w.owner, 'request')
  return finish('left', number, length, resource, header or '', details or '')
end
local answer = { S.whole().got(10) }
-- Who waits for something else goes on.
if answer[1] == 'gone' and ARGV[7] == 'cancelled' and not w then
  prepare(true, false)
  -- Works while the server has no memory left, see append.
  call('HDEL', KEYS[1], '')
  local none = nextToken()
  store('r' .. set, none, endingOf(none, 'cancelled\n' .. ARGV[10] .. '\n' .. ARGV[8] .. '\n' .. set))
end
return finish(unpack(answer))
