-- Grants a lock on a free resource.
--
-- KEYS  see the prelude, with one resource
-- ARGV  7 resource  8 owner  9 priority  10 lease in microseconds, 0 for none
--       11 request  12 note  13 metadata  14 stock's form  15 "m" to keep a
--       copy under stock's key, else "-"  16 how many can wait for a resource, 0
--       when this request does not wait  17 interval of ageing in milliseconds
--       18 process of the waiting call, empty to leave a detached waiter
--       19 microseconds for which it is alive  20 head commit of the pull request
--       21 DeadlockCheckLimit, 0 without prevention  22 digest of the picture that
--       the rest is about, empty for none, see waits.lua  23 record of the deadlock
--       from 24 on requests that are moved, none to refuse this one
--
-- Answers  granted TOKEN ACQUIRED EXPIRES  a new lock
--          again LOCK           the one that this request got before
--          claimed LOCK         the one that the owner was given before
--          own LOCK             the owner holds it already
--          cycle DIGEST PICTURE LIMIT  it would close a cycle of waits: this is to
--                               be judged, and asked again
--          deadlock LOCK        so it would, and is refused
--          held LOCK            somebody else holds it; there may be a detached
--                               waiter for it now; with a third part, 1, that was
--                               not looked at to the end for cycles of waits
--          kept LOCK            as held: it is reserved, for who had that lock, or kept
--                               for a set that waits
--          waits LOCK           so does somebody, and the request is in the queue;
--                               with a third part as above
--          full LOCK LENGTH     so does somebody, and the queue is full
--          ended                this request got a lock before, which has ended
--          reused               the request's ID was used for something else
--          closing              all locks of the owner are being released
--          closed               the pull request was closed while this run went on
--          unreadable KEY, stock VALUE, old VALUE  see settle
local resource, owner, request = ARGV[7], ARGV[8], ARGV[11]
local header, details, known = load('l' .. resource, 'd' .. resource, 'r' .. request)
local token = tokenOf(known)
local mirror, old = stockKeys(1)
local new = {
  flag = ARGV[15], owner = owner, priority = ARGV[9], acquired = S.text,
  expires = ARGV[10] ~= '0' and int(S.now + ARGV[10]) or '0', request = request, note = ARGV[12],
  details = ARGV[13] ~= '' and ARGV[14] .. '\n' .. ARGV[13] or ARGV[14],
}
-- claimed claims what the owner was given.
local function claimed(r)
  local l = S.turns().claim(resource, r, new, mirror)
  return finish('claimed', l.header, l.details)
end
local waiter = known and not token and S.queue().read(request, known)
if waiter and (waiter.owner ~= owner or waiter.resource ~= resource or waiter.set) then return finish('reused') end
if token then
  local before, how, asked = identify(call('HGET', KEYS[1], 'i' .. token))
  if before then
    if before ~= resource then return finish('reused') end
    if not how then
      local status, r = settle(resource, header, details, mirror, old)
      if status == 'held' and r.token == token then
        if r.owner ~= owner then return finish('reused') end
        if r.pending then return claimed(r) end
        return finish('again', r.header, r.details)
      end
      before, how, asked = identify(call('HGET', KEYS[1], 'i' .. token))
      header, details = false, false
    end
    if asked ~= owner then return finish('reused') end
    return finish('ended')
  end
end
if (S.kept > 0 or S.gone > 0) and S.runs().refuses(owner, ARGV[20]) then return finish('closed') end
local status, r = settle(resource, header, details, mirror, old)
if status == 'free' and S.sets > 0 then
  local kept = S.whole().keptFor(resource)
  if kept then status, r = 'reserved', kept end
end
local mine = (status == 'held' or status == 'reserved') and isOwner(r.owner, owner)
-- What its owner has reserved it takes back.
if status == 'held' or status == 'reserved' and (not mine or isClosing(owner)) then
  if status == 'reserved' then
    status = 'kept'
  elseif mine and r.pending then
    return claimed(r)
  elseif r.owner == owner then
    return finish(waiter and r.request == request and 'again' or 'own', r.header, r.details)
  end
  local limit, process = ARGV[16] + 0, ARGV[18]
  if limit == 0 or mine or isClosing(owner) then return finish(status, r.header, r.details) end
  local queue = S.queue()
  waiter = waiter and queue.load(request)
  if process == '' and (waiter or queue.hasPlace(owner, resource)) then return finish(status, r.header, r.details) end
  local unchecked, moves = '', false
  -- check looks whether the request closes a cycle of waits.
  local function check(w)
    local outcome, picture, digest, kept = S.waits().walk(w, ARGV[21] + 0, w, true)
    if outcome == 'limit' then unchecked = '1' end
    if outcome ~= 'cycle' then return nil end
    if digest ~= ARGV[22] then return { 'cycle', digest, picture, kept } end
    moves = ARGV[24] ~= nil
    if moves then return nil end
    S.waits().record(w, owner, 'request', ARGV[23])
    local refusal = process == '' and status or 'deadlock'
    return { refusal, r.header, r.details }
  end
  if waiter then
    queue.adopt(waiter, process, ARGV[19] + 0)
  else
    local w = {
      resource = resource, owner = owner, priority = ARGV[9], lease = ARGV[10], flag = ARGV[15], process = process, note = ARGV[12],
      details = new.details, request = request,
    }
    local length, answer = queue.enqueue(w, limit, ARGV[17], ARGV[19] + 0, ARGV[21] ~= '0' and check or nil)
    if answer then return finish(unpack(answer)) end
    if length and process ~= '' then return finish('full', r.header, r.details, length) end
    if moves and not length then
      S.waits().record(w, owner, 'request', ARGV[23])
      S.waits().moveTogether({ unpack(ARGV, 24) })
    end
  end
  if process ~= '' then status = 'waits' end
  return finish(status, r.header, r.details, unchecked)
end
if status ~= 'free' and status ~= 'reserved' then return finish(status, r) end
if isClosing(owner) then return finish('closing') end
waiter = waiter and S.queue().load(request)
grant(resource, new, 'acquired', owner, 'request', mirror)
if S.waiters > 0 then S.turns().dequeueOwn(new, resource, waiter) end
return finish('granted', new.token, S.text, new.expires)
