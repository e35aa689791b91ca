-- Releases one lock, under a condition.
--
-- KEYS  see the prelude; 8 stock's key of the resource, where there is one server
-- ARGV  6 resource  7 token, empty to release whatever lock the resource has
--       8 owner that must hold it, empty for any  9 number of the pull request
--       that must, empty for any  10 "1" to release whoever holds it
--       11 actor, empty for the holder  12 reason
--
-- Answers  released RECORD, denied RECORD, missing, unknown, gone HOW,
--          unreadable KEY, stock VALUE
local resource, token, mirror = ARGV[6], ARGV[7], KEYS[8]
local r, refusal, stock
if token ~= '' then
  r, refusal, stock = heldByToken(token, resource, mirror)
  if refusal then return finish(unpack(refusal)) end
else
  local status, found = settle(resource, mirror)
  if status == 'free' then return finish('missing') end
  if status ~= 'held' then return finish(status, found) end
  r, stock = found, mirror and redis.call('GET', mirror) or false
end
if ARGV[10] ~= '1' then
  local wanted = ARGV[8]
  local _, repository, number = string.match(r.owner, '^pr:([^/]*)/([^/]*)/(-?%d+)$')
  if ARGV[9] ~= '' and number ~= ARGV[9] then return finish('denied', format(r)) end
  if wanted ~= '' and wanted ~= r.owner then
    -- A record from before Atlantis stored the host is any host's.
    local _, wantedRepository, wantedNumber = string.match(wanted, '^pr:([^/]*)/([^/]*)/(-?%d+)$')
    local anyHost = string.sub(r.owner, 1, 4) == 'pr:/'
    if not (anyHost and repository == wantedRepository and number == wantedNumber) then
      return finish('denied', format(r))
    end
  end
end
local cause = ARGV[10] == '1' and 'forced' or 'request'
local actor = ARGV[11] ~= '' and ARGV[11] or r.owner
finishLock(resource, r, 'released', { actor = actor, cause = cause, reason = ARGV[12] }, mirror, stock)
if cause == 'forced' and r.flag == 'c' and mirror then redis.call('DEL', mirror) end
return finish('released', format(r))
