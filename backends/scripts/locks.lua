-- How locks begin, end and are settled: the second half of what all scripts that change a
-- repository share.
--
-- KEYS  see the prelude

-- endingOf returns what the state says of a lock that has ended: when, as the next of
-- the entries that tidy goes by, how, and the number of that entry.
local function endingOf(token, how)
  -- Where the last number is lost, those up to it are not used again: nowhere has one lock
  -- ended in each millisecond since 1970.
  if S.uncounted then S.ended = math.max(S.ended, math.floor(S.now / 1000)) end
  S.ended, S.uncounted = S.ended + 1, false
  local number = int(S.ended)
  return 'e' .. number, S.text .. ' ' .. token, 'i' .. token, how
end

-- finishLock ends a lock: it logs that, removes it, what leads to it and, if it
-- is ours, stock's copy, and remembers how it ended.
local function finishLock(resource, r, event, actor, cause, reason, mirror, stock)
  prepare(true, true)
  append(event, resource, actor, cause, event == 'reserved' and r.request or '', reason, r, nil)
  S.locks = S.locks - 1
  call('HDEL', KEYS[1], 'l' .. resource, 'd' .. resource)
  store(endingOf(r.token, event .. '\n' .. resource .. '\n' .. r.owner .. '\n' .. r.request))
  unlead(resource, r)
  if r.expires ~= '0' then call('ZREM', KEYS[2], resource) end
  if stock and stock == formOf(r) then call('DEL', mirror) end
  local ended = (event == 'timeout' or event == 'claim_expired') and tonumber(r.expires) or S.now
  S.endings = S.endings .. (S.endings == '' and '' or ';') .. event .. ' ' .. int(ended - r.acquired)
end

-- nextToken is larger than every earlier one.
local function nextToken()
  S.token = math.max(S.token + 1, S.now)
  return S.token == S.now and S.text or int(S.token)
end

-- grant writes a new lock with a new token.
local function grant(resource, r, event, actor, cause, mirror)
  prepare(false, r.expires ~= '0')
  r.token = nextToken()
  append(event, resource, actor, cause, r.request, '', nil, r)
  if S.kept > 0 then S.runs().drop(resource) end
  S.locks = S.locks + 1
  if r.request ~= '' then
    store('l' .. resource, headerOf(r), 'd' .. resource, r.details, 'i' .. r.token, resource, 'r' .. r.request, r.token)
  else
    store('l' .. resource, headerOf(r), 'd' .. resource, r.details, 'i' .. r.token, resource)
  end
  call('ZADD', KEYS[4], '0', memberOf(r.owner, resource, r.request))
  if r.expires ~= '0' then call('ZADD', KEYS[2], r.expires, resource) end
  if r.flag == 'm' then call('SET', mirror, formOf(r)) end
end

-- isClosing reports whether all locks of an owner are being released.
local function isClosing(owner)
  if S.closing <= S.now then return false end
  local number = string.match(owner, '^pr:.*/(-?%d+)$')
  local mark = number and call('HGET', KEYS[1], 'closing:' .. number)
  local ends, who = string.match(mark or '', '^(%d+) (.*)$')
  return who == owner and ends + 0 > S.now
end

-- stockKeys returns stock's keys of the resource with a number, from 1, nil for
-- those that it does not have.
local function stockKeys(n)
  local mirror, old = KEYS[3 + 2 * n], KEYS[4 + 2 * n]
  if mirror == KEYS[1] then return nil, nil end
  return mirror, old ~= mirror and old or nil
end

-- follow does what stock's key says about a lock that is held here. It returns
-- the lock, nil when stock has ended it.
local function follow(resource, r, mirror, stock)
  if r.flag == '-' and not stock or stock and stock == formOf(r) then return r end
  local before = { owner = r.owner, token = r.token, expires = r.expires, note = r.note }
  if not stock and r.flag == 'm' then
    finishLock(resource, r, 'released', 'system:atlantis', 'legacy', '', mirror, stock)
    return nil
  elseif not stock then
    -- The other holder of a conflict has gone.
    prepare(true, true)
    append('conflict', resource, 'system:atlantis', 'legacy', '', 'the other holder has released', before, r)
    r.flag = 'm'
    store('l' .. resource, headerOf(r))
    call('SET', mirror, formOf(r))
  elseif r.flag ~= 'c' then
    -- Stock has overwritten our copy, or has not seen the lock, which was taken
    -- while no copy was kept: two believe that they hold it.
    prepare(true, true)
    append('conflict', resource, 'system:atlantis', 'legacy', '', '', before, r)
    r.flag = 'c'
    store('l' .. resource, headerOf(r))
  end
  return r
end

-- vacate hands a free resource over, unless it is reserved. It returns what
-- settle does.
local function vacate(resource, mirror)
  local kept = S.kept > 0 and S.runs().reservation(resource)
  if kept then return 'reserved', kept end
  local r = S.waiters > 0 and S.turns().handOver(resource, mirror)
  if not r then return 'free' end
  return 'held', r, r.flag == 'm' and formOf(r)
end

-- settle does first what is due on a resource, of which header and details were
-- read: leases end, and what is free goes to who waits for it. It returns
--   free                  nobody holds it
--   held, lock, value     somebody does; value is what is under stock's key
--   reserved, lock        nobody does; it is kept for who has given that back, or
--                         for who has let its lease end
--   unreadable, key       what is stored can't be read: it counts as held
--   stock, value          stock Atlantis has put a value where ours is missing
--   old, value            so has an Atlantis before v0.40, under its own key
local function settle(resource, header, details, mirror, old)
  local stock = false
  if header then
    local r = parse(header, details)
    if not r then return 'unreadable', KEYS[1] end
    if mirror then
      stock = redis.pcall('GET', mirror)
      if type(stock) == 'table' then return 'unreadable', mirror end
    end
    if r.expires ~= '0' and r.expires + 0 <= S.now then
      if not r.pending and times().delay > 0 and r.expires + times().delay > S.now then
        S.runs().lapse(resource, r, mirror, stock)
      else
        finishLock(resource, r, r.pending and 'claim_expired' or 'timeout', 'system:store', 'expired', '', mirror, stock)
      end
      if stock and stock == formOf(r) then stock = false end
    elseif not mirror then
      return 'held', r, false
    else
      r = follow(resource, r, mirror, stock)
      if r then return 'held', r, stock end
    end
  elseif mirror then
    if call('EXISTS', mirror, old or mirror) == 0 then return vacate(resource, mirror) end
    stock = redis.pcall('GET', mirror)
    if type(stock) == 'table' then return 'unreadable', mirror end
  end
  if stock then return 'stock', stock end
  if old then
    local value = redis.pcall('GET', old)
    if type(value) == 'table' then return 'unreadable', old end
    if value then return 'old', value end
  end
  return vacate(resource, mirror)
end

-- serve hands over a resource whose lock has just ended.
local function serve(resource, mirror, old)
  if S.waiters > 0 then settle(resource, nil, nil, mirror, old) end
end

-- leaveFree has a resource whose lock has just ended handed over at the end of the step,
-- when all that the step frees is free: a set that waits for some of it can have it then.
local function leaveFree(resource, mirror, old)
  if S.waiters == 0 then return end
  S.unserved = S.unserved or {}
  S.unserved[#S.unserved + 1] = { resource = resource, stock = { mirror, old } }
end

-- isOwner reports whether both are one owner. A pull request from before
-- Atlantis stored the host is any host's.
local function isOwner(a, b)
  if a == b then return true end
  local x, y = string.match(a, '^pr:([^/]*)/.*$'), string.match(b, '^pr:([^/]*)/.*$')
  return x and y and (x == '' or y == '') and sub(a, 5 + #x) == sub(b, 5 + #y)
end

-- identify returns the resource of a token, whose entry was read, and how the
-- lock ended if it did, and who had it; nil when the token is unknown.
local function identify(entry)
  if not entry then return nil end
  local ending = cut(entry, 3)
  if ending then return ending[2], ending[1], ending[3] end
  return entry
end

-- heldByToken returns the lock with a token, settled, and what is under stock's
-- key; else nil and the answer that says why there is none.
local function heldByToken(token, resource, entry, header, details, mirror, old)
  local found, how = identify(entry)
  if found ~= resource then return nil, { 'unknown' } end
  if not how then
    local status, r, stock = settle(resource, header, details, mirror, old)
    if status == 'unreadable' then return nil, { 'unreadable', r } end
    if status == 'held' and r.token == token then return r, stock end
    found, how = identify(call('HGET', KEYS[1], 'i' .. token))
  end
  return nil, { 'gone', how or '' }
end
