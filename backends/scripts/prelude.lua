-- Shared by all scripts that change a repository; a script's own text follows.
--
-- KEYS  1 state  2 deadlines  3 log  4 queue,
--       then, where there is one server, two keys for each resource: stock
--       Atlantis' key, and the one that Atlantis had before v0.40, or the first
--       again; twice the state for a resource that stock does not know
-- ARGV  1 repository, empty when only its tag is known
--       2 LogMaxRecords  3 LogMaxAge, QueueClaimTimeout (0 with the queue off),
--       DetachedQueueTimeout, ReplanWindow, TombstoneTTL, UncleanReleaseDelay and
--       SetReserveAfter in microseconds, with spaces between
--       4 PUBLISH or SPUBLISH  5 channel of the repository's readers
--       6 channel that tells of new repositories
--       the script's own from 7 on
--
-- Every script answers {status, endings, ...}: endings are "EVENT MICROSECONDS"
-- joined by ";", one for each lock that the step has ended, with how long it
-- was held. A LOCK in an answer is two parts, header and details.
--
-- The state is one hash, so that one command reads all that a step decides on,
-- and one stores what it has decided. backends/redis_keys.go lists its fields.
--
-- Numbers are exact below 2^53: microseconds until the year 2255. They are
-- written with %d, since tostring loses digits.
--
-- A step reads all that it decides on and checks the types of what it writes;
-- its first write is the log record, which a full server and a log of another
-- type refuse. So it fails as a whole or not at all.
--
-- What makes scripts slow, by count of instructions: each command, each letter
-- of each string that Lua gets or makes (it hashes them), patterns, and functions
-- that capture many locals. So the functions here share one table.

-- Redis 6.2 replicates scripts by effect only when asked to.
if not redis.REDIS_VERSION_NUM and redis.replicate_commands then redis.replicate_commands() end

local call, find, sub = redis.call, string.find, string.sub
-- What the functions share: the counters of the state, the time, what is done.
local S = { endings = '' }

local function int(n)
  return string.format('%d', n)
end

-- times returns the configured times, see ARGV.
local function times()
  if not S.times then
    local age, claim, late, window, tombstone, delay, reserve =
      string.match(ARGV[3], '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
    S.times = {
      age = age + 0, claim = claim + 0, late = late + 0, window = window + 0, tombstone = tombstone + 0,
      delay = delay + 0, reserve = reserve + 0,
    }
  end
  return S.times
end

-- countOf reads a count of endings; nil for what is none.
local function countOf(text)
  return text and #text < 16 and tonumber(string.match(text, '^%d+$'))
end

-- count takes the counters of the state apart: in this order the last token, the last
-- sequence, how many locks there are and have ended, until when somebody wants to be
-- woken, how many wait, how many tombstones and reservations there are, until when a pull
-- request is being closed, how many waiters are of sets, and beyond the first of their
-- owner, how many ended locks were forgotten, and up to where the log was trimmed. One
-- field has all of them, since each further one would cost as much as the rest of it.
local function count(text)
  local c = {}
  for word in string.gmatch(text, '%S+') do c[#c + 1] = word end
  S.token, S.sequence, S.locks, S.trimmed = tonumber(c[1]), tonumber(c[2]), tonumber(c[3]), tonumber(c[13])
  if not (S.token and S.sequence and S.locks and S.trimmed) or c[14] then
    -- The server's own error for what is no number ends the step, whatever the field is.
    if not S.mends then call('HINCRBY', KEYS[1], 'counters', 'x') end
    if #c ~= 13 then return count('0 0 0 ? 0 1 1 1 0 1 1 0 0') end
    S.token, S.sequence, S.locks, S.trimmed = S.token or 0, S.sequence or 0, S.locks or 0, S.trimmed or 0
  end
  S.wake, S.closing = tonumber(c[5]) or 0, tonumber(c[9]) or 0
  -- Where it is no number, somebody may wait, and there may be what runs of pull requests
  -- have left, see runs.lua, sets, see whole.lua, and who waits twice, see queue.lua.
  S.waiters, S.gone, S.kept, S.sets, S.twice = tonumber(c[6]) or 1, tonumber(c[7]) or 1, tonumber(c[8]) or 1, tonumber(c[10]) or 1, tonumber(c[11]) or 1
  -- What ended locks are counted by. Where that can't be read, see endingOf.
  S.forgotten = countOf(c[12]) or 0
  S.uncounted = not countOf(c[4])
  S.ended = math.max(countOf(c[4]) or 0, S.forgotten)
end

-- load reads the time, the counters and further fields of the state, of which
-- it returns the values.
local function load(...)
  local clock = call('TIME')
  S.text = clock[1] .. sub('000000', #clock[2] + 1) .. clock[2]
  S.now = tonumber(S.text)
  local v = call('HMGET', KEYS[1], 'name', 'counters', ...)
  S.known, S.name = v[1], ARGV[1] ~= '' and ARGV[1] or v[1] or ''
  -- Where they are lost, there may be anything.
  count(v[2] or v[1] and '0 0 0 ? 0 1 1 1 0 1 1 0 0' or '0 0 0 ? 0 0 0 0 0 0 0 0 0')
  S.counters = v[2]
  return v[3], v[4], v[5]
end

-- store writes the counters, and further fields with them.
local function store(...)
  S.changed = false
  call('HSET', KEYS[1], 'counters', string.format('%d %d %d %s %d %d %d %d %d %d %d %d %d', S.token, S.sequence, S.locks,
    S.uncounted and '?' or int(S.ended), S.wake, S.waiters, S.gone, S.kept, S.closing, S.sets, S.twice, S.forgotten, S.trimmed), ...)
end

-- prepare is called before the first write. It checks the types of the keys
-- that are written: the queue, with lease the deadlines. Where somebody waits, a
-- hand-over can be part of any step, and has a lease of its own. When frees is set the
-- step works on a server that has no memory left.
local function prepare(frees, lease)
  if S.ready then return end
  S.ready, S.frees = true, frees
  call('ZCARD', KEYS[4])
  if lease or S.waiters > 0 or S.kept > 0 or not S.known then call('ZCARD', KEYS[2]) end
  if S.known then return end
  -- A log whose counter is lost goes on where it was.
  local last = call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', '1')[1]
  if last then S.sequence = math.max(S.sequence, tonumber(string.match(last[1], '^%d+'))) end
  -- A count that is lost with the name is found by the next lock that ends.
  S.uncounted = S.uncounted and last ~= nil
  -- The keys of a repository exist from its first use on, since a script
  -- that meets both existing and missing keys is refused while a cluster
  -- moves their slot. A name without counters would say that those are lost.
  store('name', S.name)
  call('ZADD', KEYS[2], '+inf', '')
  call('ZADD', KEYS[4], '0', '')
end

-- tokenOf returns the token that a request got, from the state's field for it; nil for
-- one that waits, and where there is none.
local function tokenOf(field)
  return field and not find(field, '%D') and field or nil
end

-- cut returns the first n lines of a text, and what is behind them; nil when it
-- has fewer line breaks.
local function cut(text, n)
  local lines, from = {}, 1
  for i = 1, n do
    local at = find(text, '\n', from, true)
    if not at then return nil end
    lines[i] = sub(text, from, at - 1)
    from = at + 1
  end
  lines[n + 1] = sub(text, from)
  return lines
end

-- parse reads the header of a lock, and takes its details; nil when it can't.
-- The details are stock's form of the lock and, behind a line break, metadata.
local function parse(header, details)
  local l = cut(header, 7)
  if not l or not details then return nil end
  local flag, pending = l[4], false
  if flag ~= '-' and flag ~= 'm' and flag ~= 'c' then
    flag, pending = ({ p = '-', M = 'm', C = 'c' })[flag], true
    if not flag or l[3] == '0' then return nil end
  end
  if l[6] == '' or find(l[8], '\n', 1, true) then return nil end
  if not (tonumber(l[1]) and tonumber(l[2]) and tonumber(l[3]) and tonumber(l[5])) or tonumber(l[1]) < 1 then return nil end
  if sub(details, 1, 1) ~= '{' then return nil end
  return {
    token = l[1], acquired = l[2], expires = l[3], flag = flag, pending = pending, priority = l[5], owner = l[6], request = l[7], note = l[8],
    header = header, details = details,
  }
end

-- formOf returns stock's form of a lock.
local function formOf(r)
  local at = find(r.details, '\n', 1, true)
  return at and sub(r.details, 1, at - 1) or r.details
end

-- headerOf writes a header. What nobody has claimed yet has flags of its own.
local function headerOf(r)
  local flag = r.pending and ({ ['-'] = 'p', m = 'M', c = 'C' })[r.flag] or r.flag
  r.header = r.token .. '\n' .. r.acquired .. '\n' .. r.expires .. '\n' .. flag .. '\n' .. r.priority .. '\n' ..
    r.owner .. '\n' .. r.request .. '\n' .. r.note
  return r.header
end

-- requestOf returns the request of a header, nil when it can't be read.
local function requestOf(header)
  return string.match(header, '^' .. string.rep('[^\n]*\n', 6) .. '([^\n]*)\n')
end

-- ownerEntry starts, for a pull request, with its number: stock's unlock by
-- pull request knows no host.
local function ownerEntry(owner, resource)
  if sub(owner, 1, 3) ~= 'pr:' then return owner .. '\n' .. resource end
  local host = find(owner, '/', 4, true)
  local number = host and find(owner, '/', host + 1, true)
  if not number then return owner .. '\n' .. resource end
  return 'p' .. sub(owner, number + 1) .. '/' .. sub(owner, 4, host - 1) .. '\n' .. resource
end

-- memberOf is the member of the queue that leads from an owner to a lock, or to a
-- waiter, see queue.lua.
local function memberOf(owner, resource, request)
  return 'o' .. ownerEntry(owner, resource) .. '\n' .. request
end

-- unlead removes what leads from an owner to a lock, unless that leads to a waiter, too:
-- a set can wait by a request that was given a lock before, see whole.lua.
local function unlead(resource, r)
  local w = S.sets > 0 and S.queue().load(r.request)
  if not w or w.resource ~= resource or w.owner ~= r.owner then call('ZREM', KEYS[4], memberOf(r.owner, resource, r.request)) end
end

-- heldBy returns the resources of an owner's locks among the next members of the queue
-- that lead from it, up to limit, and the member after which to go on, nil at the end.
-- The owner is given as ownerEntry writes it.
local function heldBy(entry, limit, after)
  local low = after and '(' .. after or '[o' .. entry
  local members = call('ZRANGEBYLEX', KEYS[4], low, '(o' .. entry .. '\255', 'LIMIT', '0', int(limit))
  local last = #members == limit and members[limit] or nil
  local resources, requests, fields = {}, {}, { 'HMGET', KEYS[1] }
  for _, member in ipairs(members) do
    local resource, request = string.match(member, '^([^\n]*)\n(.*)$', #entry + 2)
    if resource then
      local n = #resources + 1
      resources[n], requests[n], fields[2 + n] = resource, request, 'l' .. resource
    end
  end
  if S.waiters == 0 or #resources == 0 then return resources, last end
  local held = {}
  for i, header in ipairs(call(unpack(fields))) do
    if header and requestOf(header) == requests[i] then held[#held + 1] = resources[i] end
  end
  return held, last
end

-- tidy trims the log and drops what is remembered of ended locks when its time
-- has come, up to limit entries of each. Records that share an entry, see log.lua,
-- stay until all of them can go.
local function tidy(limit)
  local keep, oldest, last, at = S.sequence - tonumber(ARGV[2]), S.now - times().age
  local first = redis.pcall('XRANGE', KEYS[3], '-', '+', 'COUNT', '1')[1]
  local time = first and tonumber(string.match(first[2][2] or '', '^(%d+)\n') or 0)
  if first and (keep > S.trimmed or time < oldest) then
    for _, entry in ipairs(call('XRANGE', KEYS[3], '-', '+', 'COUNT', int(limit))) do
      local sequence = tonumber(string.match(entry[1], '^%d+'))
      time = tonumber(string.match(entry[2][2] or '', '^(%d+)\n') or 0)
      -- One that can't be read goes with its neighbours.
      if sequence > keep and time >= oldest then break end
      last, at = sequence, time
    end
  end
  if last then
    call('XTRIM', KEYS[3], 'MINID', int(last + 1))
    call('HSET', KEYS[1], 'trimmed_time', int(at))
    S.trimmed, S.changed = last, true
  end
  -- Most often the first one is still remembered. To find that out from all of them took
  -- a sixth of the server's time where many lock and release.
  local fields, count, found, late = {}, 0, false, S.now - 600000000 -- ten minutes
  local next = string.match(call('HGET', KEYS[1], 'e' .. int(S.forgotten + 1)) or '', '^(%d+) %d+$')
  if next and next + 0 > late then limit = 0 end
  for number = S.forgotten + 1, math.min(S.ended, S.forgotten + limit) do fields[#fields + 1] = 'e' .. int(number) end
  for i, entry in ipairs(#fields > 0 and call('HMGET', KEYS[1], unpack(fields)) or {}) do
    local ended, token = string.match(entry or '', '^(%d+) (%d+)$')
    found = found or entry
    -- One that is missing, or that can't be read, goes with its neighbours.
    if ended and ended + 0 > late then break end
    count = i
    local ending = token and cut(call('HGET', KEYS[1], 'i' .. token) or '', 3)
    if ending then
      local request = 'r' .. ending[4]
      call('HDEL', KEYS[1], 'i' .. token)
      if request ~= 'r' and call('HGET', KEYS[1], request) == token then call('HDEL', KEYS[1], request) end
    end
  end
  if count > 0 then
    S.forgotten = S.forgotten + count
    call('HDEL', KEYS[1], unpack(fields, 1, count))
    -- Numbers are missing where a count was lost. The entries are behind them.
    local behind = found and S.forgotten or S.ended
    while behind - S.forgotten > 1 do
      local middle = math.floor((S.forgotten + behind) / 2)
      if call('HEXISTS', KEYS[1], 'e' .. int(middle)) == 1 then behind = middle else S.forgotten = middle end
    end
    S.changed = true
  end
end

-- append writes the one log record of a change, as lines: time, event,
-- resource, token, actor, cause, request, reason, and owner, token, expiry and
-- note of the lock before and after. An actor who is the owner is left out, and
-- so are the record's own token and what there is none of.
local function append(event, resource, actor, cause, request, reason, before, after)
  local r = after or before
  if actor == r.owner then actor = '' end
  local b, a = '\n\n\n', '\n\n\n'
  if before then
    b = before.owner .. '\n' .. (before.token == r.token and '' or before.token) .. '\n' .. before.expires .. '\n' .. (before.note or '')
  end
  if after then a = after.owner .. '\n\n' .. after.expires .. '\n' .. (after.note or '') end
  local text = S.text .. '\n' .. event .. '\n' .. resource .. '\n' .. r.token .. '\n' .. actor .. '\n' .. cause .. '\n' ..
    request .. '\n' .. reason .. '\n' .. b .. '\n' .. a
  S.sequence = S.sequence + 1
  if type(redis.pcall('XADD', KEYS[3], int(S.sequence) .. '-0', 'd', text)) == 'table' then
    -- A server without memory refuses a script at its first write only, and
    -- removing what is not there is allowed.
    if S.frees then call('HDEL', KEYS[1], '') end
    -- Or the log is ahead of its counter, unless this fails as well.
    local last = call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', '1')[1]
    if last then S.sequence = tonumber(string.match(last[1], '^%d+')) + 1 end
    call('XADD', KEYS[3], int(S.sequence) .. '-0', 'd', text)
  end
  S.changed, S.logged = true, true
end

-- finish does what the step has left for its end, stores the counters if that is not
-- done, wakes readers of the log where there are any, and makes the answer.
local function finish(status, ...)
  if S.unserved then S.whole().serve() end
  if S.logged then
    local excess = S.sequence - S.trimmed - ARGV[2]
    if S.sequence % 64 == 0 or excess > 64 or excess > 0 and tonumber(ARGV[2]) < 1000 then tidy(80) end
    if S.closing > 0 and S.closing <= S.now then S.closing, S.changed = 0, true end
  end
  if S.changed then store() end
  if S.logged then
    -- Without the right to publish, readers come by themselves.
    if not S.known then
      redis.pcall('PUBLISH', ARGV[6], KEYS[1])
    elseif S.wake > S.now then
      redis.pcall(ARGV[4], ARGV[5], KEYS[1])
    end
  end
  return { status, S.endings, ... }
end
