-- Releases one lock, under a condition.
--
-- KEYS  see the prelude, with one resource
-- ARGV  7 resource  8 token, empty to release whatever lock the resource has
--       9 owner that must hold it, empty for any  10 number of the pull request
--       that must, empty for any  11 "1" to release whoever holds it, "reservation" to
--       end a reservation only
--       12 actor, empty for the holder  13 reason  14 "1" to reserve the lock for
--       the pull request that gives it back, if others wait for it or it was not
--       claimed
--
-- Answers  released LOCK, ended LOCK for a reservation of what was that lock,
--          denied LOCK, missing, unknown, gone HOW OWNER,
--          unreadable KEY, stock VALUE, old VALUE
local resource, token = ARGV[7], ARGV[8]
local header, details, entry
if token == '' then
  header, details = load('l' .. resource, 'd' .. resource)
else
  header, details, entry = load('l' .. resource, 'd' .. resource, 'i' .. token)
end
local mirror, old = stockKeys(1)
local r, stock
if token ~= '' then
  r, stock = heldByToken(token, resource, entry, header, details, mirror, old)
  if not r and stock[1] == 'gone' then
    local _, _, owner = identify(call('HGET', KEYS[1], 'i' .. token))
    return finish('gone', stock[2], owner or '')
  end
  if not r then return finish(unpack(stock)) end
else
  local status
  status, r, stock = settle(resource, header, details, mirror, old)
  if status == 'reserved' and ARGV[11] ~= '' then
    S.runs().stop(resource, r, ARGV[12], 'forced', ARGV[13])
    serve(resource, mirror, old)
    return finish('ended', r.header, r.details)
  end
  if status == 'free' or status == 'reserved' or ARGV[11] == 'reservation' then return finish('missing') end
  if status ~= 'held' then return finish(status, r) end
end
local forced, wanted = ARGV[11] == '1', ARGV[9]
if not forced then
  if ARGV[10] ~= '' and string.match(r.owner, '^pr:.*/(-?%d+)$') ~= ARGV[10] then return finish('denied', r.header, r.details) end
  if wanted ~= '' and wanted ~= r.owner then
    -- A record from before Atlantis stored the host is any host's.
    local mine = string.match(wanted, '^pr:[^/]*(/.*)$')
    if not mine or r.owner ~= 'pr:' .. mine then return finish('denied', r.header, r.details) end
  end
end
local actor, cause = ARGV[12] ~= '' and ARGV[12] or r.owner, forced and 'forced' or 'request'
if ARGV[14] == '1' and times().claim > 0 and sub(r.owner, 1, 3) == 'pr:' and
    (r.pending or S.waiters > 0 and S.queue().isWanted(resource)) then
  S.runs().reserve(resource, r, actor, cause, ARGV[13], mirror, stock)
  return finish('released', r.header, r.details)
end
prepare(true, r.expires ~= '0')
finishLock(resource, r, 'released', actor, cause, ARGV[13], mirror, stock)
if forced and r.flag == 'c' and mirror then call('DEL', mirror) end
serve(resource, mirror, old)
return finish('released', r.header, r.details)
