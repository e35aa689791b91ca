-- Shared by all scripts that change a repository; a script's own text follows.
--
-- KEYS  1 meta  2 locks  3 deadlines  4 owners  5 memory  6 forget  7 log,
--       then stock Atlantis' key of each resource, where there is one server
-- ARGV  1 repository, empty when only its tag is known
--       2 LogMaxRecords  3 LogMaxAge in microseconds  4 channel  5 tag
--       the script's own from 6 on
--
-- Every script answers {status, endings, ...}: endings are "EVENT MICROSECONDS"
-- joined by ";", one for each lock that the step has ended, with how long it
-- was held.
--
-- Numbers are exact below 2^53: microseconds until the year 2255. They are
-- written with %.0f, since tostring loses digits. Nothing is written before
-- every key was read once, so that a key of the wrong type fails the step as a
-- whole; what frees memory comes first, so that a release works without any.

-- Redis 6.2 replicates scripts by effect only when asked to.
if redis.replicate_commands then pcall(redis.replicate_commands) end

local META, LOCKS, DEADLINES, OWNERS, MEMORY, FORGET, LOG = unpack(KEYS, 1, 7)
local MEMORY_TIME = 600000000
local NAME = ARGV[1]
local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local meta = redis.call('HMGET', META, 'name', 'token', 'sequence')
local known = meta[1]
local TOKEN = tonumber(meta[2] or '0')
local SEQUENCE = tonumber(meta[3] or '0')
local firstToken, firstSequence = TOKEN, SEQUENCE
local endings = {}
local ready = false

if NAME == '' then NAME = known or '' end

local function int(n)
  return string.format('%.0f', n)
end

-- prepare is called before the first write.
local function prepare()
  if ready then return end
  ready = true
  redis.call('XLEN', LOG)
  redis.call('ZCARD', OWNERS)
  redis.call('ZCARD', DEADLINES)
  redis.call('ZCARD', FORGET)
  redis.call('HLEN', MEMORY)
  redis.call('HLEN', LOCKS)
  if not known then
    -- The keys of a repository exist from its first use on, since a script
    -- that meets both existing and missing keys is refused while a cluster
    -- moves their slot.
    redis.call('HSET', META, 'name', NAME)
    redis.call('HSET', LOCKS, '', '')
    redis.call('HSET', MEMORY, '', '')
    redis.call('ZADD', DEADLINES, '+inf', '')
    redis.call('ZADD', OWNERS, 0, '')
    redis.call('ZADD', FORGET, '+inf', '')
  end
end

-- parse reads a lock record; nil when it can't.
local function parse(raw)
  local flag, token, owner, priority, acquired, expires, request, note, metadata, payload = string.match(raw,
    '^([mc-])\n(%d+)\n([^\n]+)\n(%d+)\n(%d+)\n(%d+)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]+)$')
  if not flag then return nil end
  return {
    flag = flag, token = token, owner = owner, priority = priority, acquired = acquired, expires = expires,
    request = request, note = note, metadata = metadata, payload = payload, raw = raw,
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

local function trim(limit)
  local excess = redis.call('XLEN', LOG) - tonumber(ARGV[2])
  local oldest = NOW - tonumber(ARGV[3])
  local last, at
  for i, entry in ipairs(redis.call('XRANGE', LOG, '-', '+', 'COUNT', limit)) do
    local time = tonumber(entry[2][2]) or 0
    if i > excess and time >= oldest then break end
    last, at = string.match(entry[1], '^(%d+)'), time
  end
  if not last then return end
  redis.call('XTRIM', LOG, 'MINID', int(tonumber(last) + 1))
  redis.call('HSET', META, 'trimmed', last, 'trimmed_time', int(at))
end

-- forget drops up to limit endings whose time has come.
local function forget(limit)
  for _, token in ipairs(redis.call('ZRANGEBYSCORE', FORGET, '-inf', int(NOW), 'LIMIT', 0, limit)) do
    local request = string.match(redis.call('HGET', MEMORY, 'i' .. token) or '', '^[^\n]*\n[^\n]*\n[^\n]*\n([^\n]*)$')
    redis.call('ZREM', FORGET, token)
    if request then
      redis.call('HDEL', MEMORY, 'i' .. token)
      if request ~= '' and redis.call('HGET', MEMORY, 'r' .. request) == token then
        redis.call('HDEL', MEMORY, 'r' .. request)
      end
    end
  end
end

-- append writes the one log record of a change. The time comes first: trim
-- reads it.
local function append(event, resource, c, before, after)
  SEQUENCE = SEQUENCE + 1
  local entry = { 't', int(NOW), 'e', event, 'r', resource, 'n', (after or before).token, 'a', c.actor, 'c', c.cause }
  local function add(name, value)
    if value and value ~= '' and value ~= '0' then
      entry[#entry + 1] = name
      entry[#entry + 1] = value
    end
  end
  add('q', c.request)
  add('w', c.reason)
  for prefix, r in pairs({ b = before, z = after }) do
    add(prefix .. 'o', r.owner)
    add(prefix .. 'n', r.token)
    add(prefix .. 'x', r.expires)
    add(prefix .. 'k', r.note)
  end
  redis.call('XADD', LOG, int(SEQUENCE) .. '-0', unpack(entry))
  if SEQUENCE % 16 == 0 or redis.call('XLEN', LOG) > tonumber(ARGV[2]) then trim(18) end
  forget(2)
end

-- finish stores what the step has counted, wakes readers of the log, and
-- makes the answer.
local function finish(status, ...)
  if SEQUENCE ~= firstSequence or TOKEN ~= firstToken then
    redis.call('HSET', META, 'sequence', int(SEQUENCE), 'token', int(TOKEN))
    -- Without the right to publish, readers come by themselves.
    redis.pcall('PUBLISH', ARGV[4], ARGV[5])
  end
  return { status, table.concat(endings, ';'), ... }
end

-- put writes a record with what leads to it.
local function put(resource, r)
  redis.call('HSET', LOCKS, resource, format(r))
  redis.call('ZADD', OWNERS, 0, ownerEntry(r.owner, resource))
  if r.expires ~= '0' then redis.call('ZADD', DEADLINES, r.expires, resource) end
end

-- drop removes a record, what leads to it and, if it is ours, stock's copy, and
-- remembers how the lock ended.
local function drop(resource, r, how, mirror, stock)
  prepare()
  redis.call('HDEL', LOCKS, resource)
  redis.call('ZREM', OWNERS, ownerEntry(r.owner, resource))
  redis.call('ZREM', DEADLINES, resource)
  if mirror and stock == r.payload then redis.call('DEL', mirror) end
  redis.call('HSET', MEMORY, 'i' .. r.token, table.concat({ how, resource, r.owner, r.request }, '\n'))
  redis.call('ZADD', FORGET, int(NOW + MEMORY_TIME), r.token)
end

local function finishLock(resource, r, event, c, mirror, stock)
  drop(resource, r, event, mirror, stock)
  append(event, resource, c, r, nil)
  local ended = NOW
  if event == 'timeout' then ended = tonumber(r.expires) end
  endings[#endings + 1] = event .. ' ' .. int(ended - tonumber(r.acquired))
end

-- grant writes a new lock with a new token.
local function grant(resource, r, event, c, before, mirror)
  prepare()
  TOKEN = math.max(TOKEN + 1, NOW)
  r.token = int(TOKEN)
  put(resource, r)
  redis.call('HSET', MEMORY, 'i' .. r.token, resource)
  if r.request ~= '' then redis.call('HSET', MEMORY, 'r' .. r.request, r.token) end
  if r.flag == 'm' then redis.call('SET', mirror, r.payload) end
  append(event, resource, c, before, r)
  return format(r)
end

-- settle does first what is due on a resource. It returns
--   free                  nobody holds it
--   held, record          somebody does
--   unreadable, key       what is stored can't be read: it counts as held
--   stock, value          stock Atlantis has put a value where ours is missing
local function settle(resource, mirror)
  local raw = redis.call('HGET', LOCKS, resource)
  local r = raw and parse(raw)
  if raw and not r then return 'unreadable', LOCKS end
  local stock = false
  if mirror then
    stock = redis.pcall('GET', mirror)
    if type(stock) == 'table' then return 'unreadable', mirror end
  end
  if r and r.expires ~= '0' and tonumber(r.expires) <= NOW then
    finishLock(resource, r, 'timeout', { actor = 'system:store', cause = 'expired' }, mirror, stock)
    if stock == r.payload then stock = false end
    r = nil
  end
  if r and mirror and r.flag ~= '-' and stock ~= r.payload then
    if not stock and r.flag == 'm' then
      finishLock(resource, r, 'released', { actor = 'system:atlantis', cause = 'legacy' }, mirror, stock)
      r = nil
    elseif not stock then
      -- The other holder of a conflict has gone.
      prepare()
      r.flag = 'm'
      put(resource, r)
      redis.call('SET', mirror, r.payload)
    elseif r.flag == 'm' then
      -- Stock has overwritten our copy: two believe that they hold the lock.
      prepare()
      r.flag = 'c'
      put(resource, r)
      append('conflict', resource, { actor = 'system:atlantis', cause = 'legacy' }, r, r)
    end
  elseif r and mirror and r.flag == '-' and stock then
    -- The lock was taken while no copy was kept, and stock has seen nothing.
    prepare()
    r.flag = 'c'
    put(resource, r)
    append('conflict', resource, { actor = 'system:atlantis', cause = 'legacy' }, r, r)
  end
  if r then return 'held', r end
  if stock then return 'stock', stock end
  return 'free'
end

-- identify returns the resource of the lock with a token, and how the lock
-- ended if it did; nil when the token is unknown.
local function identify(token)
  local value = redis.call('HGET', MEMORY, 'i' .. token)
  if not value then return nil end
  local how, resource, owner = string.match(value, '^([^\n]*)\n([^\n]*)\n([^\n]*)\n[^\n]*$')
  if how then return resource, how, owner end
  return value
end

-- held returns the record of the lock with a token, settled; else the answer
-- that says why there is none.
local function heldByToken(token, resource, mirror)
  local found, how = identify(token)
  if found ~= resource then return nil, { 'unknown' } end
  if not how then
    local status, r = settle(resource, mirror)
    if status == 'unreadable' then return nil, { 'unreadable', r } end
    if status == 'held' and r.token == token then
      local stock = mirror and redis.call('GET', mirror) or false
      return r, nil, stock
    end
    found, how = identify(token)
  end
  return nil, { 'gone', how or '' }
end
