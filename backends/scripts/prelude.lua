-- Shared by all scripts that change a repository; a script's own text follows.
--
-- KEYS  1 meta  2 locks  3 deadlines  4 owners  5 memory  6 forget  7 log,
--       then, where there is one server, two keys for each resource: stock
--       Atlantis' key, and the one that Atlantis had before v0.40; meta stands
--       for one that the resource does not have
-- ARGV  1 repository, empty when only its tag is known
--       2 LogMaxRecords  3 LogMaxAge in microseconds
--       4 PUBLISH or SPUBLISH  5 channel of the repository's readers
--       6 channel that tells of new repositories
--       the script's own from 7 on
--
-- Every script answers {status, endings, ...}: endings are "EVENT MICROSECONDS"
-- joined by ";", one for each lock that the step has ended, with how long it
-- was held.
--
-- Numbers are exact below 2^53: microseconds until the year 2255. They are
-- written with %.0f, since tostring loses digits. A step reads all that it
-- decides on and checks the types of what it writes; its first write is the log
-- record, which a full server and a log of another type refuse. So it fails as
-- a whole or not at all.

-- Redis 6.2 replicates scripts by effect only when asked to.
if not redis.REDIS_VERSION_NUM and redis.replicate_commands then redis.replicate_commands() end

local call = redis.call
local META, LOCKS, DEADLINES, OWNERS, MEMORY, FORGET, LOG = unpack(KEYS, 1, 7)
local MEMORY_TIME = 600000000
local clock = call('TIME')
local NOW = clock[1] * 1000000 + clock[2]
local NOW_TEXT = string.format('%.0f', NOW)
local meta = call('HMGET', META, 'name', 'token', 'sequence', 'trimmed', 'readers', 'closing')
local known = meta[1]
local NAME = ARGV[1] ~= '' and ARGV[1] or known or ''
local TOKEN, SEQUENCE, TRIMMED = tonumber(meta[2] or 0), tonumber(meta[3] or 0), tonumber(meta[4] or 0)
if not (TOKEN and SEQUENCE and TRIMMED) then
  return { err = 'CORRUPT a counter in ' .. META .. ' is no number; nothing was done' }
end
local endings = ''
local ready, changed = false, false

local function int(n)
  return string.format('%.0f', n)
end

-- prepare is called before the first write. When frees is set the step works
-- on a server that has no memory left: such a server refuses a script only at
-- its first write, and removing what is not there is allowed.
local function prepare(frees)
  if ready then return end
  ready = true
  call('ZCARD', OWNERS)
  call('ZCARD', DEADLINES)
  call('LLEN', FORGET)
  if frees then call('HDEL', META, '') end
  if known then return end
  call('HLEN', LOCKS)
  call('HLEN', MEMORY)
  -- A log whose counter is lost goes on where it was.
  local last = call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
  if last then SEQUENCE = math.max(SEQUENCE, tonumber(string.match(last[1], '^%d+'))) end
  -- The keys of a repository exist from its first use on, since a script
  -- that meets both existing and missing keys is refused while a cluster
  -- moves their slot.
  call('HSET', META, 'name', NAME)
  call('HSET', LOCKS, '', '')
  call('HSET', MEMORY, '', '')
  call('ZADD', DEADLINES, '+inf', '')
  call('ZADD', OWNERS, 0, '')
  if call('LLEN', FORGET) == 0 then call('RPUSH', FORGET, '') end
end

-- parse reads a lock record; nil when it can't.
local function parse(raw)
  local flag, token, owner, priority, acquired, expires, request, note, metadata, payload = string.match(raw,
    '^([mc-])\n(%d+)\n([^\n]+)\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n({[^\n]*})$')
  if not flag then return nil end
  return {
    flag = flag, token = token, owner = owner, priority = priority, acquired = acquired, expires = expires,
    request = request, note = note, metadata = metadata, payload = payload,
  }
end

local function format(r)
  return table.concat({ r.flag, r.token, r.owner, r.priority, r.acquired, r.expires, r.request, r.note, r.metadata, r.payload }, '\n')
end

-- ownerEntry starts, for a pull request, with its number: stock's unlock by
-- pull request knows no host.
local function ownerEntry(owner, resource)
  local host, number = string.match(owner, '^pr:([^/]*)/[^/]*/(-?%d+)$')
  if host then return 'p' .. number .. '/' .. host .. '\n' .. resource end
  return owner .. '\n' .. resource
end

-- tidy trims the log and drops what is remembered of ended locks when its time
-- has come, up to limit records of each.
local function tidy(limit)
  local excess, oldest, last, at = SEQUENCE - TRIMMED - tonumber(ARGV[2]), NOW - tonumber(ARGV[3])
  local first = redis.pcall('XRANGE', LOG, '-', '+', 'COUNT', 1)[1]
  local time = first and tonumber(string.match(first[2][2] or '', '^(%d+)\n') or 0)
  if first and (excess > 0 or time < oldest) then
    for i, entry in ipairs(call('XRANGE', LOG, '-', '+', 'COUNT', limit)) do
      time = tonumber(string.match(entry[2][2] or '', '^(%d+)\n') or 0)
      if i > excess and time >= oldest then break end
      last, at = tonumber(string.match(entry[1], '^%d+')), time
    end
  end
  if last then
    call('XTRIM', LOG, 'MINID', int(last + 1))
    call('HSET', META, 'trimmed', int(last), 'trimmed_time', int(at))
    TRIMMED = last
  end
  local list, count = call('LRANGE', FORGET, 0, limit), 0
  for _, entry in ipairs(list) do
    local ended, token = string.match(entry, '^(%d+) (%d+)$')
    if ended and ended + MEMORY_TIME > NOW then break end
    count = count + 1
    local request = token and string.match(call('HGET', MEMORY, 'i' .. token) or '', '^[^\n]*\n[^\n]*\n[^\n]*\n([^\n]*)$')
    if request then
      call('HDEL', MEMORY, 'i' .. token)
      if request ~= '' and call('HGET', MEMORY, 'r' .. request) == token then call('HDEL', MEMORY, 'r' .. request) end
    end
  end
  -- The last entry stays, so that the key does.
  count = math.min(count, #list - 1)
  if count > 0 then call('LTRIM', FORGET, count, -1) end
end

-- append writes the one log record of a change, as lines: time, event,
-- resource, token, actor, cause, request, reason, and owner, token, expiry and
-- note of the lock before and after. An actor who is the owner is left out, and
-- so are the record's own token and what there is none of.
local function append(event, resource, actor, cause, request, reason, before, after)
  prepare()
  local r = after or before
  if actor == r.owner then actor = '' end
  local bo, bn, bx, bk, ao, an, ax, ak = '', '', '', '', '', '', '', ''
  if before then
    bo, bx, bk = before.owner, before.expires, before.note or ''
    if before.token ~= r.token then bn = before.token end
  end
  if after then ao, ax, ak = after.owner, after.expires, after.note or '' end
  local text = table.concat({ NOW_TEXT, event, resource, r.token, actor, cause, request, reason, bo, bn, bx, bk, ao, an, ax, ak }, '\n')
  SEQUENCE = SEQUENCE + 1
  if type(redis.pcall('XADD', LOG, int(SEQUENCE) .. '-0', 'd', text)) == 'table' then
    -- The log is ahead of its counter, unless this fails as well.
    local last = call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
    if last then SEQUENCE = tonumber(string.match(last[1], '^%d+')) + 1 end
    call('XADD', LOG, int(SEQUENCE) .. '-0', 'd', text)
  end
  changed = true
end

-- finish stores what the step has counted, wakes readers of the log where there
-- are any, and makes the answer.
local function finish(status, ...)
  if changed then
    local excess = SEQUENCE - TRIMMED - ARGV[2]
    if SEQUENCE % 16 == 0 or excess > 16 or excess > 0 and tonumber(ARGV[2]) < 1000 then tidy(20) end
    call('HSET', META, 'sequence', int(SEQUENCE), 'token', int(TOKEN))
    -- Without the right to publish, readers come by themselves.
    if not known then
      redis.pcall('PUBLISH', ARGV[6], META)
    elseif meta[5] and meta[5] + 0 > NOW then
      redis.pcall(ARGV[4], ARGV[5], META)
    end
  end
  return { status, endings, ... }
end

-- put writes a record with what leads to it.
local function put(resource, r)
  call('HSET', LOCKS, resource, format(r))
  call('ZADD', OWNERS, 0, ownerEntry(r.owner, resource))
  if r.expires ~= '0' then call('ZADD', DEADLINES, r.expires, resource) end
end

-- drop removes a record, what leads to it and, if it is ours, stock's copy, and
-- remembers how the lock ended.
local function drop(resource, r, how, mirror, stock)
  call('HDEL', LOCKS, resource)
  call('ZREM', OWNERS, ownerEntry(r.owner, resource))
  if r.expires ~= '0' then call('ZREM', DEADLINES, resource) end
  if mirror and stock == r.payload then call('DEL', mirror) end
  call('HSET', MEMORY, 'i' .. r.token, how .. '\n' .. resource .. '\n' .. r.owner .. '\n' .. r.request)
  call('RPUSH', FORGET, NOW_TEXT .. ' ' .. r.token)
end

local function finishLock(resource, r, event, actor, cause, reason, mirror, stock)
  prepare(true)
  append(event, resource, actor, cause, '', reason, r, nil)
  drop(resource, r, event, mirror, stock)
  local ended = event == 'timeout' and tonumber(r.expires) or NOW
  endings = endings .. (endings == '' and '' or ';') .. event .. ' ' .. int(ended - r.acquired)
end

-- grant writes a new lock with a new token. before is the lock that it follows,
-- if any.
local function grant(resource, r, event, actor, cause, before, mirror)
  prepare()
  TOKEN = math.max(TOKEN + 1, NOW)
  r.token = TOKEN == NOW and NOW_TEXT or int(TOKEN)
  append(event, resource, actor, cause, r.request, '', before, r)
  put(resource, r)
  if r.request ~= '' then
    call('HSET', MEMORY, 'i' .. r.token, resource, 'r' .. r.request, r.token)
  else
    call('HSET', MEMORY, 'i' .. r.token, resource)
  end
  if r.flag == 'm' then call('SET', mirror, r.payload) end
end

-- stockKeys returns stock's keys of the resource with a number, from 1, nil for
-- those that it does not have.
local function stockKeys(n)
  local mirror, old = KEYS[6 + 2 * n], KEYS[7 + 2 * n]
  if mirror == META then mirror = nil end
  if old == META then old = nil end
  return mirror, old
end

-- follow does what stock's key says about a lock that is held here. It returns
-- the lock, nil when stock has ended it.
local function follow(resource, r, mirror, stock)
  if r.flag == '-' and not stock or stock == r.payload then return r end
  local before = { owner = r.owner, token = r.token, expires = r.expires, note = r.note }
  if not stock and r.flag == 'm' then
    finishLock(resource, r, 'released', 'system:atlantis', 'legacy', '', mirror, stock)
    return nil
  elseif not stock then
    -- The other holder of a conflict has gone.
    prepare(true)
    append('conflict', resource, 'system:atlantis', 'legacy', '', 'the other holder has released', before, r)
    r.flag = 'm'
    put(resource, r)
    call('SET', mirror, r.payload)
  elseif r.flag ~= 'c' then
    -- Stock has overwritten our copy, or has not seen the lock, which was taken
    -- while no copy was kept: two believe that they hold it.
    prepare(true)
    append('conflict', resource, 'system:atlantis', 'legacy', '', '', before, r)
    r.flag = 'c'
    put(resource, r)
  end
  return r
end

-- settle does first what is due on a resource. It returns
--   free                  nobody holds it
--   held, record, value   somebody does; value is what is under stock's key
--   unreadable, key       what is stored can't be read: it counts as held
--   stock, value          stock Atlantis has put a value where ours is missing
--   old, value            so has an Atlantis before v0.40, under its own key
local function settle(resource, mirror, old)
  local raw, stock = call('HGET', LOCKS, resource), false
  if raw then
    local r = parse(raw)
    if not r then return 'unreadable', LOCKS end
    if mirror then
      stock = redis.pcall('GET', mirror)
      if type(stock) == 'table' then return 'unreadable', mirror end
    end
    if r.expires ~= '0' and r.expires + 0 <= NOW then
      finishLock(resource, r, 'timeout', 'system:store', 'expired', '', mirror, stock)
      if stock == r.payload then stock = false end
    elseif not mirror then
      return 'held', r, false
    else
      r = follow(resource, r, mirror, stock)
      if r then return 'held', r, stock end
    end
  elseif mirror then
    if call('EXISTS', mirror, old or mirror) == 0 then return 'free' end
    stock = redis.pcall('GET', mirror)
    if type(stock) == 'table' then return 'unreadable', mirror end
  end
  if stock then return 'stock', stock end
  if old then
    local value = redis.pcall('GET', old)
    if type(value) == 'table' then return 'unreadable', old end
    if value then return 'old', value end
  end
  return 'free'
end

-- identify returns the resource of the lock with a token, and how the lock
-- ended if it did; nil when the token is unknown.
local function identify(token)
  local value = call('HGET', MEMORY, 'i' .. token)
  if not value then return nil end
  local how, resource, owner = string.match(value, '^([^\n]*)\n([^\n]*)\n([^\n]*)\n[^\n]*$')
  if how then return resource, how, owner end
  return value
end

-- heldByToken returns the record of the lock with a token, settled, and what is
-- under stock's key; else nil and the answer that says why there is none.
local function heldByToken(token, resource, mirror, old)
  local found, how = identify(token)
  if found ~= resource then return nil, { 'unknown' } end
  if not how then
    local status, r, stock = settle(resource, mirror, old)
    if status == 'unreadable' then return nil, { 'unreadable', r } end
    if status == 'held' and r.token == token then return r, stock end
    found, how = identify(token)
  end
  return nil, { 'gone', how or '' }
end
