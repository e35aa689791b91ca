-- Takes the locks of a set of requests, or none; or makes a set all that its owner
-- holds in the repository. All is read before anything is written, and what is
-- written goes in few commands: a set can have 500 resources, and the server answers
-- nobody else meanwhile.
--
-- KEYS  see the prelude, with the resource of each request and then of each lock
--       that may be freed
-- ARGV  7 "all" or "replace"  8 owner  9 that as ownerEntry has it  10 number
--       of requests and, behind a space, its head commit  11 process of the call that
--       waits, empty for none  12 how many can wait for a resource  13 interval of
--       ageing in milliseconds  14 microseconds for which the process is alive
--       15 DeadlockCheckLimit, 0 without prevention  16 digest of the picture that the
--       next three are about, empty for none, see waits.lua  17 request that closes
--       the cycle  18 record of the deadlock  19 requests that are moved, in lines,
--       empty to refuse the set  from 20 on eight for each request: resource, priority,
--       lease in microseconds or 0, request, note, metadata, stock's form, and "m" to
--       keep a copy under stock's key or "-"; then, to replace, the resources that the
--       owner has entries for, or has reserved, beside those
--
-- Answers  again LOCK ...             what these requests got before
--          done WAITERS TIME ...      "1" when what is free is to be handed over; the
--                                     time; for each request taken TOKEN EXPIRES, or
--                                     claimed or kept LOCK; then LOCK RESOURCE of each
--                                     that is free
--          listed RESOURCE ...        to replace, these are to be listed
--          held COUNT RESOURCE STATUS LOCK ...  so many are held, these first; a lock
--                                     that can't be read has two empty parts; the
--                                     status of what is kept for another set is kept
--          waits UNCHECKED            the set is in the queues; "1" when that was not
--                                     looked at to the end for cycles of waits
--          full N LENGTH              the queue for the nth resource, from 0, is
--          cycle DIGEST PICTURE LIMIT REQUEST  the set would close a cycle of waits:
--                                     this is to be judged, and asked again; the
--                                     picture is that of the walk from that request
--          deadlock                   so it would, and is refused
--          due RESOURCE ...           these are to be settled before
--          ended N, reused N          the nth request, from 0, got a lock that has
--                                     ended, or its ID was used for something else
--          closing                    all locks of the owner are being released
--          closed                     the pull request has a tombstone
local match = string.match
local mode, owner = ARGV[7], ARGV[8]
local count, head = match(ARGV[10], '^(%d+) (.*)$')
count = count + 0
load()
local first = 20 + 8 * count -- of those to be freed
local total = count + #ARGV - first + 1

local function resourceAt(i)
  if i <= count then return ARGV[12 + 8 * i] end
  return ARGV[first + i - count - 1]
end

-- What the owner has that is not listed is not looked at.
if mode == 'replace' then
  local listed, missing = {}, {}
  for i = 1, total do listed[resourceAt(i)] = true end
  local entry, after = ARGV[9] .. '\n', nil
  repeat
    local resources
    resources, after = heldBy(entry, 1001, after)
    for _, resource in ipairs(resources) do
      if not listed[resource] then missing[#missing + 1] = resource end
    end
  until not after or #missing > 1000
  for _, member in ipairs(S.kept > 0 and sub(owner, 1, 3) == 'pr:' and S.runs().reservedBy(entry, 1001) or {}) do
    local resource = sub(member, #entry + 2)
    if not listed[resource] then missing[#missing + 1] = resource end
  end
  if #missing > 0 then return finish('listed', unpack(missing)) end
end

-- The headers, and what is known of the requests.
local fields = { 'HMGET', KEYS[1] }
for i = 1, total do fields[2 + i] = 'l' .. resourceAt(i) end
for i = 1, count do fields[2 + total + i] = 'r' .. ARGV[15 + 8 * i] end
local headers = total > 0 and call(unpack(fields)) or {}
local tokens, known, queued, given, alone = { 'HMGET', KEYS[1] }, {}, {}, {}, {}
for i = 1, count do
  local field = headers[total + i]
  given[i] = tokenOf(field)
  -- One that waits is another request.
  if field and not given[i] then
    local w = S.queue().read(ARGV[15 + 8 * i], field)
    local set = mode == 'all' and ARGV[23]
    if not w or w.owner ~= owner or w.resource ~= ARGV[12 + 8 * i] or (mode == 'all' or w.set) and w.set ~= set or
        w.set and w.size ~= count then
      return finish('reused', int(i - 1))
    end
    if w.set then queued[#queued + 1] = w end
    given[i], alone[i] = w.given, not w.set
  end
  if given[i] then
    tokens[#tokens + 1] = 'i' .. given[i]
    known[#known + 1] = i
  end
end
local got, gone = {}, {}
if #known > 0 then
  local entries = call(unpack(tokens))
  for k, i in ipairs(known) do
    local resource, how, asked = identify(entries[k])
    if resource then
      if resource ~= ARGV[12 + 8 * i] or how and asked ~= owner then return finish('reused', int(i - 1)) end
      if how then gone[#gone + 1] = i end
      got[i] = given[i]
    end
  end
end
if #gone > 0 then return finish('ended', int(gone[1] - 1)) end
local process = ARGV[11]
if #queued == count and count > 0 and process ~= '' then
  S.whole().adopt(queued, process, ARGV[14] + 0)
  return finish('waits')
elseif #queued > 0 and #queued < count then
  -- One that is whole is another set.
  for i = 1, #S.whole().membersOf(queued[1]) == count and count or 0 do
    if ARGV[15 + 8 * i] == queued[1].request then return finish('reused', int(i - 1)) end
  end
  S.whole().dequeueDamaged(queued[1])
end

-- The details of what is held, and stock's keys.
local held, parts, copies, watched = {}, { 'HMGET', KEYS[1] }, { 'MGET' }, { 'EXISTS' }
for i = 1, total do
  local mirror, old = stockKeys(i)
  if headers[i] then
    held[#held + 1] = i
    parts[#parts + 1] = 'd' .. resourceAt(i)
    copies[#copies + 1] = mirror or KEYS[1]
  elseif mirror and i <= count then
    watched[#watched + 1] = mirror
    if old then watched[#watched + 1] = old end
  end
end
local details, stock = {}, {}
if #held > 0 then
  details, stock = call(unpack(parts)), call(unpack(copies))
end

local due, blocked, own, answers, claims = {}, {}, {}, {}, {}
-- Who waits for himself, or for what can't be read, waits in vain.
local hopeless = false
local function block(i, isOwn, header, text, status)
  local at = isOwn and 1 or #blocked + 1
  hopeless = hopeless or isOwn or header == ''
  table.insert(blocked, at, { resourceAt(i), status or 'held', header, text })
end
for k, i in ipairs(held) do
  local header = headers[i]
  local token, acquired, expires, flag, priority, holder, request, note =
    match(header, '^(%d+)\n(%d+)\n(%d+)\n([-mcpMC])\n(%-?%d+)\n([^\n]+)\n([^\n]*)\n([^\n]*)$')
  local text = details[k]
  if not token or not text or sub(text, 1, 1) ~= '{' then
    if i <= count then block(i, false, '', '') end
  else
    local at = find(text, '\n', 1, true)
    local form = at and sub(text, 1, at - 1) or text
    local isMine = holder == owner or mode == 'replace' and isOwner(holder, owner)
    local pending = find('pMC', flag, 1, true)
    flag = ({ p = '-', M = 'm', C = 'c' })[flag] or flag
    if expires ~= '0' and expires + 0 <= S.now or
        stockKeys(i) and not (flag == '-' and not stock[k] or flag ~= '-' and stock[k] == form or flag == 'c' and stock[k]) then
      due[#due + 1] = resourceAt(i)
    elseif i > count then
      if isMine then
        own[#own + 1] = {
          resource = resourceAt(i), token = token, acquired = acquired, expires = expires, owner = holder, request = request,
          note = note, header = header, details = text, mirror = flag == 'm' and stock[k] and stockKeys(i),
        }
      end
    elseif pending and isMine then
      claims[i] = parse(header, text)
    elseif got[i] and (got[i] ~= token or holder ~= owner) then
      return finish(holder == owner and 'ended' or 'reused', int(i - 1))
    elseif mode == 'replace' and isMine then
      answers[i] = { 'kept', header, text }
    else
      block(i, isMine or isOwner(holder, owner), header, text)
      if got[i] and mode == 'all' then answers[i] = { header, text } end
    end
  end
end
-- A request whose lock is neither there nor remembered as ended has lost it.
for i in pairs(got) do
  if not headers[i] then return finish('ended', int(i - 1)) end
end
if #watched > 1 and call(unpack(watched)) > 0 then
  for i = 1, count do
    local mirror, old = stockKeys(i)
    if mirror and not headers[i] and call('EXISTS', mirror, old or mirror) > 0 then due[#due + 1] = resourceAt(i) end
  end
end
if #due > 0 then return finish('due', unpack(due)) end
local function flat(list, from, to)
  local all = {}
  for i = from, to do
    if list[i] then
      for _, part in ipairs(list[i]) do all[#all + 1] = part end
    end
  end
  return all
end
-- Who takes nothing can be refused nothing: asked again it is the same answer.
local takes = false
for i = 1, count do takes = takes or not answers[i] end
if takes then
  if isClosing(owner) then return finish('closing') end
  if (S.kept > 0 or S.gone > 0) and S.runs().refuses(owner, head) then return finish('closed') end
elseif mode == 'all' then
  return finish('again', unpack(flat(answers, 1, count)))
end
-- What somebody has reserved is his, and the owner takes back what he has.
local reserved = {}
if S.kept > 0 then
  for i = 1, count do
    local kept = not headers[i] and S.runs().reservation(resourceAt(i))
    if kept and isOwner(kept.owner, owner) then
      reserved[i] = true
    elseif kept then
      headers[i] = kept.header
      block(i, false, kept.header, kept.details, 'kept')
    end
  end
end
-- What is free goes to who waits for it.
if S.waiters > 0 then
  local handed, left = 0, { 'HMGET', KEYS[1] }
  for i = 1, count do
    local resource = resourceAt(i)
    if not headers[i] and not reserved[i] then
      if call('ZLEXCOUNT', KEYS[4], '[q' .. resource .. '\n', '(q' .. resource .. '\n:') > 0 then
        handed = handed + 1
        local mirror = stockKeys(i)
        local status, r = vacate(resource, mirror)
        if status == 'held' then
          headers[i] = r.header
          block(i, false, r.header, r.details)
        end
        if handed == 50 then return finish('due') end
      end
      if not headers[i] then left[#left + 1] = 'l' .. resource end
    end
  end
  if S.unserved then S.whole().serve() end
  -- One can have been handed over with another.
  if handed > 0 and S.sets > 0 and #left > 2 then
    for _, header in ipairs(call(unpack(left))) do
      if header then return finish('due') end
    end
  end
end
if S.sets > 0 then
  for i = 1, count do
    local r = not headers[i] and not reserved[i] and S.whole().keptFor(resourceAt(i))
    if r and not isOwner(r.owner, owner) then block(i, false, r.header, r.details, 'kept') end
  end
end

if #blocked > 0 then
  if process == '' or hopeless then return finish('held', int(#blocked), unpack(flat(blocked, 1, math.min(#blocked, 20)))) end

  -- The set enters the queues.
  local queue, whole, members, isNamed = S.queue(), S.whole(), {}, false
  for i = 1, count do
    local length = queue.isFull(resourceAt(i), ARGV[12] + 0)
    if length then return finish('full', int(i - 1), length) end
    local at = 11 + 8 * i
    members[i] = {
      resource = ARGV[at + 1], owner = owner, priority = ARGV[at + 2], lease = ARGV[at + 3], request = ARGV[at + 4], note = ARGV[at + 5],
      details = ARGV[at + 6] ~= '' and ARGV[at + 7] .. '\n' .. ARGV[at + 6] or ARGV[at + 7], flag = ARGV[at + 8], process = process,
      mark = S.whole().markOf(got[i], ARGV[at + 8], count, ARGV[23], stockKeys(i)), set = ARGV[23],
    }
  end
  queue.reorder(ARGV[13])
  local function rank(w, number)
    w.rank, w.enqueued = queue.rankOf(w.priority + 0, S.now, number, ARGV[13] + 0), S.text
  end
  local unchecked, record, moves = '', nil, {}
  if ARGV[15] ~= '0' then
    local from
    for i, w in ipairs(members) do
      rank(w, S.sequence + i)
      w.enqueued = ''
      if not from and blocked[1][1] == w.resource or w.request == ARGV[17] then from = w end
    end
    local outcome, picture, digest, kept = S.waits().walkFrom(from, members, ARGV[15] + 0)
    if outcome == 'limit' then unchecked = '1' end
    if outcome == 'cycle' then
      if digest ~= ARGV[16] then return finish('cycle', digest, picture, kept, from.request) end
      if ARGV[19] == '' then
        S.waits().record(from, owner, 'request', ARGV[18])
        return finish('deadlock')
      end
      record = from
      for request in string.gmatch(ARGV[19], '[^\n]+') do moves[#moves + 1] = request end
    end
  end
  local lease = false
  for _, w in ipairs(members) do lease = lease or w.lease ~= '0' end
  prepare(false, lease)
  for _, w in ipairs(members) do
    append('queued', w.resource, owner, 'request', w.request, '', { owner = owner, token = '0', expires = '0' }, nil)
    rank(w, S.sequence)
  end
  whole.put(members)
  queue.pulse(process, ARGV[14] + 0)
  if record then
    S.waits().record(record, owner, 'request', ARGV[18])
    S.waits().moveTogether(moves)
  end
  return finish('waits', unchecked)
end
-- A set that waits, and is asked for by a call that does not.
if #queued == count and count > 0 then
  local members = S.whole().ready(queued[1])
  if members then S.whole().grant(members) end
  return finish('due')
end

-- From here on it is written.
for i, r in pairs(claims) do
  local at = 11 + 8 * i
  local l = S.turns().claim(resourceAt(i), r, {
    expires = ARGV[at + 3] ~= '0' and int(S.now + ARGV[at + 3]) or '0', owner = owner, request = ARGV[at + 4], note = ARGV[at + 5],
    details = ARGV[at + 6] ~= '' and ARGV[at + 7] .. '\n' .. ARGV[at + 6] or ARGV[at + 7],
  }, (stockKeys(i)))
  answers[i] = { 'claimed', l.header, l.details }
end
local items, lease = {}, false
for i = 1, count do
  if not answers[i] then
    local at = 11 + 8 * i
    items[#items + 1] = {
      resource = ARGV[at + 1], mirror = stockKeys(i), waiter = alone[i] and S.queue().load(ARGV[at + 4]), lock = {
        owner = owner, note = ARGV[at + 5], flag = ARGV[at + 8], priority = ARGV[at + 2], acquired = S.text,
        expires = ARGV[at + 3] ~= '0' and int(S.now + ARGV[at + 3]) or '0', request = ARGV[at + 4],
        details = ARGV[at + 6] ~= '' and ARGV[at + 7] .. '\n' .. ARGV[at + 6] or ARGV[at + 7],
      },
    }
    answers[i] = items[#items].lock
    lease = lease or answers[i].expires ~= '0'
  end
end
for _, r in ipairs(own) do lease = lease or r.expires ~= '0' end
if #items + #own > 0 then prepare(#items == 0, lease) end
if #items > 0 then
  S.whole().take(items, 'acquired', 'request')
  for i, r in pairs(answers) do
    if r.token then answers[i] = { 'taken', r.token, r.expires } end
  end
end

if #own > 0 then
  local removed, unleased, unlisted, gone = { 'HDEL', KEYS[1] }, { 'ZREM', KEYS[2] }, { 'ZREM', KEYS[4] }, { 'DEL' }
  local endings, endingsOf = {}, {}
  for k, r in ipairs(own) do
    append('released', r.resource, owner, 'request', '', '', r, nil)
    removed[#removed + 1], removed[#removed + 2] = 'l' .. r.resource, 'd' .. r.resource
    for _, field in ipairs({ endingOf(r.token, 'released\n' .. r.resource .. '\n' .. r.owner .. '\n' .. r.request) }) do
      endings[#endings + 1] = field
    end
    if S.sets == 0 then
      unlisted[#unlisted + 1] = memberOf(r.owner, r.resource, r.request)
    else
      unlead(r.resource, r)
    end
    if r.expires ~= '0' then unleased[#unleased + 1] = r.resource end
    if r.mirror then gone[#gone + 1] = r.mirror end
    endingsOf[k] = 'released ' .. int(S.now - r.acquired)
    answers[count + k] = { r.header, r.details, r.resource }
  end
  call(unpack(removed))
  S.locks = S.locks - #own
  store(unpack(endings))
  if #unlisted > 2 then call(unpack(unlisted)) end
  if #unleased > 2 then call(unpack(unleased)) end
  if #gone > 1 then call(unpack(gone)) end
  S.endings = (S.endings == '' and '' or S.endings .. ';') .. table.concat(endingsOf, ';')
end

-- What the owner has reserved beside them it does not want either.
for i = count + 1, S.kept > 0 and total or 0 do
  local resource = resourceAt(i)
  local kept = not headers[i] and S.runs().reservation(resource)
  if kept and not kept.lapsed and isOwner(kept.owner, owner) then S.runs().stop(resource, kept, owner, 'request', '') end
end

S.whole().dequeueOwn(items)
return finish('done', mode == 'replace' and S.waiters > 0 and '1' or '', S.text, unpack(flat(answers, 1, count + #own)))
