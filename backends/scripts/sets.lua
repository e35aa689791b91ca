-- Takes the locks of a set of requests, or none; or makes a set all that its owner
-- holds in the repository. All is read before anything is written, and what is
-- written goes in few commands: a set can have 500 resources, and the server answers
-- nobody else meanwhile.
--
-- KEYS  see the prelude, with the resource of each request and then of each lock
--       that may be freed
-- ARGV  7 "all" or "replace"  8 owner  9 its part of the owners' index  10 number
--       of requests and, behind a space, its head commit  from 11 on eight for each request: resource, priority, lease
--       in microseconds or 0, request, note, metadata, stock's form, and "m" to keep
--       a copy under stock's key or "-"; then, to replace, the resources that the
--       owner has entries for beside those
--
-- Answers  granted TOKEN EXPIRES ...  all are taken
--          again LOCK ...             what these requests got before
--          replaced WAITERS KEPT ...  "1" when what is free is to be handed over;
--                                     for each request taken TOKEN EXPIRES or kept
--                                     LOCK; then LOCK RESOURCE of each that is free
--          listed RESOURCE ...        to replace, these are to be listed
--          held COUNT RESOURCE LOCK ...  so many are held, these first; a lock that
--                                     can't be read has two empty parts
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
if isClosing(owner) and count > 0 then return finish('closing') end
if (S.kept > 0 or S.gone > 0) and count > 0 and S.runs().refuses(owner, head) then return finish('closed') end
local first = 11 + 8 * count -- of those to be freed
local total = count + #ARGV - first + 1

local function resourceAt(i)
  if i <= count then return ARGV[3 + 8 * i] end
  return ARGV[first + i - count - 1]
end

-- What the owner has that is not listed is not looked at.
if mode == 'replace' then
  local listed, missing = {}, {}
  for i = 1, total do listed[resourceAt(i)] = true end
  local entry = ARGV[9] .. '\n'
  for _, member in ipairs(call('ZRANGEBYLEX', KEYS[3], '[' .. entry, '(' .. entry .. '\255', 'LIMIT', '0', '1001')) do
    local resource = sub(member, #entry + 1)
    if not listed[resource] then missing[#missing + 1] = resource end
  end
  if #missing > 0 then return finish('listed', unpack(missing)) end
end

-- The headers, and what is known of the requests.
local fields = { 'HMGET', KEYS[1] }
for i = 1, total do fields[2 + i] = 'l' .. resourceAt(i) end
for i = 1, count do fields[2 + total + i] = 'r' .. ARGV[6 + 8 * i] end
local headers = total > 0 and call(unpack(fields)) or {}
local tokens, known = { 'HMGET', KEYS[1] }, {}
for i = 1, count do
  local token = headers[total + i]
  if token then
    tokens[#tokens + 1] = 'i' .. token
    known[#known + 1] = i
  end
  -- One that waits is another request.
  if S.waiters > 0 and call('HEXISTS', KEYS[1], 'q' .. ARGV[6 + 8 * i]) == 1 then
    local w = S.queue().load(ARGV[6 + 8 * i])
    if not w or w.owner ~= owner or w.resource ~= ARGV[3 + 8 * i] then return finish('reused', int(i - 1)) end
  end
end
local got, gone = {}, {}
if #known > 0 then
  local entries = call(unpack(tokens))
  for k, i in ipairs(known) do
    local resource, how, asked = identify(entries[k])
    if resource then
      if resource ~= ARGV[3 + 8 * i] or how and asked ~= owner then return finish('reused', int(i - 1)) end
      if how then gone[#gone + 1] = i end
      got[i] = headers[total + i]
    end
  end
end
if #gone > 0 then return finish('ended', int(gone[1] - 1)) end

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
local function block(i, isOwn, header, text)
  local at = isOwn and 1 or #blocked + 1
  table.insert(blocked, at, { resourceAt(i), header, text })
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
-- What somebody has reserved is his, and the owner takes back what he has.
local reserved = {}
if S.kept > 0 then
  for i = 1, count do
    local kept = not headers[i] and S.runs().reservation(resourceAt(i))
    if kept and isOwner(kept.owner, owner) then
      reserved[i] = true
    elseif kept then
      block(i, false, kept.header, kept.details)
    end
  end
end
-- What is free goes to who waits for it.
if S.waiters > 0 then
  local handed = 0
  for i = 1, count do
    local resource = resourceAt(i)
    if not headers[i] and not reserved[i] and call('ZLEXCOUNT', KEYS[6], '[q' .. resource .. '\n', '(q' .. resource .. '\n:') > 0 then
      handed = handed + 1
      local mirror = stockKeys(i)
      local status, r = vacate(resource, mirror)
      if status == 'held' then block(i, false, r.header, r.details) end
      if handed == 50 then return finish('due') end
    end
  end
end

local function flat(list, from, to)
  local all = {}
  for i = from, to do
    if list[i] then
      for _, part in ipairs(list[i]) do all[#all + 1] = part end
    end
  end
  return all
end
if #blocked > 0 then
  if mode == 'all' and #known == count then
    local all = flat(answers, 1, count)
    if #all == 2 * count then return finish('again', unpack(all)) end
  end
  return finish('held', int(#blocked), unpack(flat(blocked, 1, math.min(#blocked, 20))))
end

-- From here on it is written.
for i, r in pairs(claims) do
  local at = 2 + 8 * i
  local l = S.queue().claim(resourceAt(i), r, {
    expires = ARGV[at + 3] ~= '0' and int(S.now + ARGV[at + 3]) or '0', owner = owner, request = ARGV[at + 4], note = ARGV[at + 5],
    details = ARGV[at + 6] ~= '' and ARGV[at + 7] .. '\n' .. ARGV[at + 6] or ARGV[at + 7],
  }, (stockKeys(i)))
  answers[i] = mode == 'all' and { l.token, l.expires } or { 'kept', l.header, l.details }
end
local leases, states, entries, mirrors = { 'ZADD', KEYS[2] }, {}, { 'ZADD', KEYS[3] }, { 'MSET' }
local lease = false
for i = 1, count do lease = lease or not answers[i] and ARGV[5 + 8 * i] ~= '0' end
for _, r in ipairs(own) do lease = lease or r.expires ~= '0' end
local taken = 0
for i = 1, count do
  if not answers[i] then taken = taken + 1 end
end
if taken + #own > 0 then prepare(taken == 0, lease, #own > 0) end
for i = 1, count do
  if not answers[i] then
    local at = 2 + 8 * i
    local resource, request = ARGV[at + 1], ARGV[at + 4]
    local r = {
      token = nextToken(), owner = owner, note = ARGV[at + 5], flag = ARGV[at + 8], priority = ARGV[at + 2], acquired = S.text,
      expires = ARGV[at + 3] ~= '0' and int(S.now + ARGV[at + 3]) or '0', request = request,
    }
    append('acquired', resource, owner, 'request', request, '', nil, r)
    local n, text = #states, ARGV[at + 7]
    states[n + 1], states[n + 2] = 'l' .. resource, headerOf(r)
    states[n + 3], states[n + 4] = 'd' .. resource, ARGV[at + 6] ~= '' and text .. '\n' .. ARGV[at + 6] or text
    states[n + 5], states[n + 6] = 'i' .. r.token, resource
    states[n + 7], states[n + 8] = 'r' .. request, r.token
    entries[#entries + 1], entries[#entries + 2] = '0', ARGV[9] .. '\n' .. resource
    if r.expires ~= '0' then leases[#leases + 1], leases[#leases + 2] = r.expires, resource end
    if r.flag == 'm' then
      local mirror = stockKeys(i)
      mirrors[#mirrors + 1] = mirror
      mirrors[#mirrors + 1] = text
    end
    answers[i] = mode == 'all' and { r.token, r.expires } or { 'taken', r.token, r.expires }
  end
end
if taken > 0 then
  S.locks = S.locks + taken
  store(unpack(states))
  for i in pairs(reserved) do S.runs().drop(resourceAt(i)) end
  call(unpack(entries))
  if #leases > 2 then call(unpack(leases)) end
  if #mirrors > 1 then call(unpack(mirrors)) end
end

if #own > 0 then
  local removed, unleased, unlisted, gone, forget = { 'HDEL', KEYS[1] }, { 'ZREM', KEYS[2] }, { 'ZREM', KEYS[3] }, { 'DEL' }, { 'RPUSH', KEYS[4] }
  local endings, endingsOf = {}, {}
  for k, r in ipairs(own) do
    append('released', r.resource, owner, 'request', '', '', r, nil)
    removed[#removed + 1], removed[#removed + 2] = 'l' .. r.resource, 'd' .. r.resource
    endings[#endings + 1], endings[#endings + 2] = 'i' .. r.token, 'released\n' .. r.resource .. '\n' .. r.owner .. '\n' .. r.request
    unlisted[#unlisted + 1] = ownerEntry(r.owner, r.resource)
    if r.expires ~= '0' then unleased[#unleased + 1] = r.resource end
    if r.mirror then gone[#gone + 1] = r.mirror end
    forget[#forget + 1] = S.text .. ' ' .. r.token
    endingsOf[k] = 'released ' .. int(S.now - r.acquired)
    answers[count + k] = { r.header, r.details, r.resource }
  end
  call(unpack(removed))
  S.locks = S.locks - #own
  store(unpack(endings))
  call(unpack(unlisted))
  if #unleased > 2 then call(unpack(unleased)) end
  if #gone > 1 then call(unpack(gone)) end
  call(unpack(forget))
  S.endings = (S.endings == '' and '' or S.endings .. ';') .. table.concat(endingsOf, ';')
end

-- Nobody waits behind himself.
if S.waiters > 0 and taken > 0 then
  local entry = 'o' .. ARGV[9] .. '\n'
  for _, member in ipairs(call('ZRANGEBYLEX', KEYS[6], '[' .. entry, '(' .. entry .. '\255', 'LIMIT', '0', '100')) do
    local w = S.queue().load(match(member, '\n([^\n]*)$'))
    local parts = w and call('HMGET', KEYS[1], 'l' .. w.resource, 'd' .. w.resource)
    local r = parts and parts[1] and parse(parts[1], parts[2])
    if r and r.owner == owner then S.queue().dequeue(w, 'cancelled', owner, 'hand_over', 'own', r.header, r.details) end
  end
end
if mode == 'all' then return finish('granted', S.text, unpack(flat(answers, 1, count))) end
return finish('replaced', S.waiters > 0 and '1' or '', S.text, unpack(flat(answers, 1, count + #own)))
