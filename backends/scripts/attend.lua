-- Looks after a resource that calls of a process wait for.
--
-- KEYS  see the prelude, with one resource
-- ARGV  7 resource  8 process  9 microseconds for which it is alive  from 10 on
--       requests
--
-- Answers  attended NOW EXPIRES, and for each request one of
--            waits "" ""   it is in the queue, for this process
--            has LOCK      it has got the lock
--            ended "" ""   it had got the lock, which has ended
--            gone "" ""    none of these
--          and after them, where one is gone, the LOCK that is held.
--          NOW is the time in microseconds, EXPIRES when a lease on the resource
--          ends, or a reservation, 0 for none; it is NOW where more is to be done
local resource = ARGV[7]
local header, details = load('l' .. resource, 'd' .. resource)
local mirror, old = stockKeys(1)
if S.waiters > 0 then S.queue().pulse(ARGV[8], ARGV[9] + 0) end
local status, r = settle(resource, header, details, mirror, old)
local answer = { S.text, status == 'held' and r.expires or status == 'reserved' and r.ends or '0' }
if S.waiters > 0 and status == 'held' and S.turns().dequeueOwn(r, resource) then answer[2] = S.text end
local gone = false
for i = 10, #ARGV do
  local n = #answer
  local known = call('HGET', KEYS[1], 'r' .. ARGV[i])
  local token = tokenOf(known)
  if known and not token and find(known, '\n' .. ARGV[8] .. '\n', 1, true) then
    answer[n + 1], answer[n + 2], answer[n + 3] = 'waits', '', ''
  elseif token and status == 'held' and token == r.token then
    answer[n + 1], answer[n + 2], answer[n + 3] = 'has', r.header, r.details
  else
    answer[n + 1], answer[n + 2], answer[n + 3] = token and 'ended' or 'gone', '', ''
    gone = gone or not token
  end
end
if gone and status == 'held' then answer[#answer + 1], answer[#answer + 2] = r.header, r.details end
return finish('attended', unpack(answer))
