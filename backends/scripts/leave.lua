-- Takes a request out of the queue.
--
-- KEYS  see the prelude
-- ARGV  7 resource  8 request  9 event  10 owner  11 process that it waits in
--
-- Answers  left PLACE LENGTH LOCK  it stood there; LOCK is the holder's, two
--                                  empty parts for none
--          has LOCK                it has got the lock
--          ended                   it had got the lock, which has ended
--          gone                    it is not in the queue, and will not be: a
--                                  request that is still on its way comes too late;
--                                  or another process has it, which has sent it
--                                  again
local resource, request = ARGV[7], ARGV[8]
local header, details, known = load('l' .. resource, 'd' .. resource, 'r' .. request)
local token = tokenOf(known)
local w = known and not token and S.queue().read(request, known)
if w and w.resource == resource then
  if w.process ~= ARGV[11] then return finish('gone') end
  local number, length = S.queue().placeOf(w)
  S.queue().dequeue(w, ARGV[9], w.owner, 'request')
  return finish('left', number, length, header or '', details or '')
end
local r = token and header and parse(header, details)
if r and r.token == token then return finish('has', header, details) end
if token then return finish('ended') end
-- Who waits for something else goes on.
if ARGV[9] == 'cancelled' and not w then
  prepare(true, false)
  -- Works while the server has no memory left, see append.
  call('HDEL', KEYS[1], '')
  local none = nextToken()
  store('r' .. request, none, endingOf(none, 'cancelled\n' .. resource .. '\n' .. ARGV[10] .. '\n' .. request))
end
return finish('gone')
