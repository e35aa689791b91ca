-- Releases what the caller has listed of a pull request, takes it out of the queues,
-- and keeps one that was closed from taking more.
--
-- KEYS  see the prelude, with the resource of each listed entry
-- ARGV  7 number of the pull request  8 actor  9 "1" when more remains than
--       is listed: until that is released it gets no new locks; else, once
--       all are released, "released" to leave a mark of that, "closed" to remove it
--       10 owner that was closed, empty for none: it gets a tombstone, in each step
--       again, and is released when all was within the last minute, since what it has
--       taken after that is a run's, or when such a release was cut off  11 head commit that the run may be at work on
--       from 12 on members of the queue: those that lead from it, and those for what
--       it has reserved
--
-- Answers  released LOCK RESOURCE ..., or again when the pull request has more
--          than was listed; after it come the resources that can't be read,
--          each with "" in place of its lock's parts; closed when there was
--          nothing to do but to leave the tombstone; with "bury" as 9, marked when
--          there is more
load()
local more, releasing = ARGV[9] == '1', false
if ARGV[10] ~= '' then
  releasing = S.runs().isReleasing(ARGV[10])
  local isMarked = releasing or S.runs().isMarked(ARGV[7])
  -- The tombstone first: whatever is cut off after it, nothing new is taken. It says,
  -- whenever that is done again, that there is more to release.
  S.runs().bury(ARGV[10], ARGV[11], releasing or more and isMarked)
  if not isMarked then return finish('closed') end
  if ARGV[9] == 'bury' then return finish('marked') end
end
-- The last write is a mark in there.
if ARGV[9] == 'released' or ARGV[9] == 'closed' then call('ZCARD', KEYS[4]) end
local listed = {}
for i = 12, #ARGV do listed[ARGV[i]] = true end
if not more then
  for _, member in ipairs(call('ZRANGEBYLEX', KEYS[4], '[op' .. ARGV[7] .. '/', '[op' .. ARGV[7] .. '/\255')) do
    if not listed[member] then return finish('again') end
  end
  for _, member in ipairs(S.kept > 0 and S.runs().reservedBy('p' .. ARGV[7] .. '/', 1000) or {}) do
    if not listed[member] then return finish('again') end
  end
end
-- It leaves the queues first, so that nothing is handed over to it.
local answer, waited, owner = {}, {}, nil
for i = 12, S.waiters > 0 and #ARGV or 0 do
  local entry = ARGV[i]
  local w = sub(entry, 1, 1) == 'o' and S.queue().load(string.match(entry, '\n([^\n]*)$') or '')
  if w and memberOf(w.owner, w.resource, w.request) == entry then
    owner, waited[entry] = w.owner, not w.given -- else it may lead to a lock, too
    S.queue().dequeue(w, 'cancelled', ARGV[8], 'pull', 'cancelled', ARGV[8])
  end
end
for i = 12, #ARGV do
  local entry = ARGV[i]
  local resource = string.match(entry, '\n([^\n]*)') or ''
  local mirror, old = stockKeys(i - 11)
  local isReserved = sub(entry, 1, 1) == 's'
  local found, r, stock
  if isReserved then
    owner = S.runs().giveUp(entry, ARGV[8], 'pull', mirror, old) or owner
  elseif not waited[entry] then
    local parts = call('HMGET', KEYS[1], 'l' .. resource, 'd' .. resource)
    found, r, stock = settle(resource, parts[1], parts[2], mirror, old)
  end
  local n = #answer
  if found == 'held' and memberOf(r.owner, resource, r.request) == entry then
    owner = r.owner
    finishLock(resource, r, 'released', ARGV[8], 'pull', '', mirror, stock)
    answer[n + 1], answer[n + 2], answer[n + 3] = r.header, r.details, resource
    leaveFree(resource, mirror, old)
  elseif not isReserved and not waited[entry] and call('ZSCORE', KEYS[4], entry) then
    -- What leads to nothing must not come up on every page.
    prepare(true, true)
    call('ZREM', KEYS[4], entry)
    if found == 'unreadable' then
      answer[n + 1], answer[n + 2], answer[n + 3] = '', '', resource
    end
  end
end
if ARGV[9] == 'released' then S.runs().mark(ARGV[7]) end
if ARGV[9] == 'closed' then
  S.runs().unmark(ARGV[7])
  if releasing then S.runs().bury(ARGV[10], ARGV[11]) end
end
-- That it is closing comes last: what was removed has made room for it. It names the
-- owner, since a pull request of another host can have the number.
if more and owner then
  S.closing = S.now + 60000000
  store('closing:' .. ARGV[7], int(S.closing) .. ' ' .. owner)
elseif not more and S.closing > 0 then
  call('HDEL', KEYS[1], 'closing:' .. ARGV[7])
end
return finish('released', unpack(answer))
