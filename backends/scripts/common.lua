-- Decides requests for locks and releases of several callers, as they commonly
-- are: nothing is due, nobody waits, stock Atlantis has done nothing, no request
-- is known already. It stands alone, since making the prelude's functions takes
-- longer than all of this; what it writes is what acquire.lua and release.lua
-- write. A decision that is not common is left to those, with nothing written.
--
-- The decisions are taken one after the other, each on one repository. On a
-- cluster all are of one repository; on one server of as many as there are, since
-- most of what a call costs is the call.
--
-- KEYS  for each repository: state, deadlines, owners, forget, log, queue; then, where
--       there is one server, two of stock's for each decision, see the prelude
-- ARGV  1 PUBLISH or SPUBLISH  2 channel of the repositories' readers
--       3 number of the first of stock's keys
--       4 the decisions, in MessagePack (https://msgpack.org), which costs a
--         third of what arguments do; ten values for each:
--         "a", number of the first key of the repository, number of the first of
--            stock's or 0, resource, owner, its part of the owners' index,
--            priority, lease in microseconds or 0, request, "m" or "-"
--         "r", two numbers as above, resource, token or "", owner or "", "1" to
--            force, actor or "", reason, ""
--       from 5 on stock's form of each request, in their order
--
-- Answers  {microseconds, and three for each decision:
--          granted TOKEN EXPIRES
--          held HEADER DETAILS      by whomever
--          released HEADER DETAILS
--          else "" ""               see the general script}
local call, pcall, find, sub, format = redis.call, redis.pcall, string.find, string.sub, string.format
local clock = call('TIME')
local now = clock[1] .. sub('000000', #clock[2] + 1) .. clock[2]
-- Whether there is nothing under all of stock's keys, which one command tells.
local first = ARGV[3] + 0
local untouched = KEYS[first] and call('EXISTS', unpack(KEYS, first)) == 0
local woken -- the states whose readers want to be

-- fails reports whether a command was refused, by what it has replied. Only
-- what is written before the log can be: a step fails as a whole or not at all.
local function fails(reply)
  return type(reply) == 'table'
end

-- wake notes who is to be woken at the end.
local function wake(state, till)
  if till and till > now then
    woken = woken or {}
    woken[state] = true
  end
end

-- standing takes a lock apart that is held, not due, and which stock has not
-- touched: token, expiry, flag, owner, request and note. It is nil for others.
-- The lines are found one by one, since patterns look at each letter for longer.
local function standing(header, details, mirror)
  -- Token and time have as many digits as the time has now.
  local digits = #now
  if sub(header, digits + 1, digits + 1) ~= '\n' or sub(header, 2 * digits + 2, 2 * digits + 2) ~= '\n' then return nil end
  local c = find(header, '\n', 2 * digits + 3, true)
  local d = c and find(header, '\n', c + 3, true)
  local e = d and find(header, '\n', d + 1, true)
  local f = e and find(header, '\n', e + 1, true)
  if not f or find(header, '\n', f + 1, true) or not details or sub(details, 1, 1) ~= '{' then return nil end
  local expires, flag = sub(header, 2 * digits + 3, c - 1), sub(header, c + 1, c + 1)
  -- Digits of one length compare as numbers do.
  if expires ~= '0' and (#expires ~= digits or expires <= now) then return nil end
  local stock = mirror and not untouched and pcall('GET', mirror) or false
  if flag ~= '-' and flag ~= 'm' or stock ~= (mirror and flag == 'm' and details or false) then return nil end
  return sub(header, 1, digits), expires, flag, sub(header, d + 1, e - 1), sub(header, e + 1, f - 1), sub(header, f + 1)
end

local function acquire(form, at, stock, resource, owner, index, priority, lease, request, flag)
  local state, header, remembered = KEYS[at], 'l' .. resource, 'r' .. request
  local v = pcall('HMGET', state, 'token', 'sequence', 'locks', 'wake', 'closing', 'waiters', header, remembered)
  local token, sequence, locks = v[1], tonumber(v[2] or ''), tonumber(v[3] or '')
  if not (token and #token == #now and tonumber(token) and sequence and locks) or v[5] or v[8] then return 'else', '', '' end
  local mirror = KEYS[stock]
  if v[7] then
    local details = call('HGET', state, 'd' .. resource)
    if standing(v[7], details, mirror) then return 'held', v[7], details end
    return 'else', '', ''
  end
  if (v[6] or '0') ~= '0' or mirror and not untouched and call('EXISTS', mirror, KEYS[stock + 1]) ~= 0 then return 'else', '', '' end

  local deadlines, owners, entry, expires = KEYS[at + 1], KEYS[at + 2], index .. '\n' .. resource, '0'
  token = token < now and now or format('%d', token + 1)
  sequence = format('%d', sequence + 1)
  if fails(pcall('ZADD', owners, '0', entry)) then return 'else', '', '' end
  if lease ~= '0' then
    expires = format('%d', now + lease)
    if fails(pcall('ZADD', deadlines, expires, resource)) then
      call('ZREM', owners, entry)
      return 'else', '', ''
    end
  end
  if fails(pcall('XADD', KEYS[at + 4], sequence .. '-0', 'd', now .. '\nacquired\n' .. resource .. '\n' .. token ..
      '\n\nrequest\n' .. request .. '\n\n\n\n\n\n' .. owner .. '\n\n' .. expires .. '\n')) then
    call('ZREM', owners, entry)
    if lease ~= '0' then call('ZREM', deadlines, resource) end
    return 'else', '', ''
  end
  call('HSET', state, 'token', token, 'sequence', sequence, 'locks', format('%d', locks + 1),
    header, token .. '\n' .. now .. '\n' .. expires .. '\n' .. flag .. '\n' .. priority .. '\n' .. owner .. '\n' .. request .. '\n',
    'd' .. resource, form, 'i' .. token, resource, remembered, token)
  if flag == 'm' then call('SET', mirror, form) end
  wake(state, v[4])
  return 'granted', token, expires
end

local function release(at, stock, resource, wanted, by, forced, actor, reason)
  local state, header, details = KEYS[at], 'l' .. resource, 'd' .. resource
  local v = pcall('HMGET', state, 'sequence', 'locks', 'wake', 'closing', 'waiters', header, details)
  local sequence, locks = tonumber(v[1] or ''), tonumber(v[2] or '')
  if not (sequence and locks and v[6]) or v[4] or (v[5] or '0') ~= '0' then return 'else', '', '' end
  local mirror = KEYS[stock]
  local token, expires, flag, owner, request, note = standing(v[6], v[7], mirror)
  if not token or wanted ~= '' and wanted ~= token or forced ~= '1' and by ~= '' and by ~= owner then
    return 'else', '', ''
  end

  local deadlines, owners, forget, entry = KEYS[at + 1], KEYS[at + 2], KEYS[at + 3], owner
  if sub(owner, 1, 3) == 'pr:' then
    local host = find(owner, '/', 4, true)
    entry = 'p' .. sub(owner, find(owner, '/', host + 1, true) + 1) .. '/' .. sub(owner, 4, host - 1)
  end
  entry = entry .. '\n' .. resource
  if actor == owner then actor = '' end
  sequence = format('%d', sequence + 1)
  -- What frees memory comes first, since a server without any refuses a script
  -- at its first write only.
  if fails(pcall('ZREM', owners, entry)) then return 'else', '', '' end
  local done = 1
  if expires == '0' or not fails(pcall('ZREM', deadlines, resource)) then
    done = 2
    if not fails(pcall('RPUSH', forget, now .. ' ' .. token)) then
      done = 3
      if not fails(pcall('XADD', KEYS[at + 4], sequence .. '-0', 'd', now .. '\nreleased\n' .. resource .. '\n' .. token .. '\n' ..
          actor .. '\n' .. (forced == '1' and 'forced' or 'request') .. '\n\n' .. reason .. '\n' .. owner .. '\n\n' .. expires .. '\n' ..
          note .. '\n\n\n\n')) then
        done = 4
      end
    end
  end
  if done < 4 then
    call('ZADD', owners, '0', entry)
    if done > 1 and expires ~= '0' then call('ZADD', deadlines, expires, resource) end
    if done > 2 then call('RPOP', forget) end
    return 'else', '', ''
  end
  call('HDEL', state, header, details)
  call('HSET', state, 'sequence', sequence, 'locks', format('%d', locks - 1),
    'i' .. token, 'released\n' .. resource .. '\n' .. owner .. '\n' .. request)
  if flag == 'm' and mirror then call('DEL', mirror) end
  wake(state, v[3])
  return 'released', v[6], v[7]
end

local answer, forms, from = { now }, 4, 0
repeat
  local kind, a, b, c, d, e, f, g, h, i
  from, kind, a, b, c, d, e, f, g, h, i = cmsgpack.unpack_limit(ARGV[4], 10, from)
  local n = #answer
  if kind == 'a' then
    forms = forms + 1
    answer[n + 1], answer[n + 2], answer[n + 3] = acquire(ARGV[forms], a, b, c, d, e, f, g, h, i)
  else
    answer[n + 1], answer[n + 2], answer[n + 3] = release(a, b, c, d, e, f, g, h)
  end
until from < 0
if woken then
  -- Without the right to publish, readers come by themselves.
  for state in pairs(woken) do pcall(ARGV[1], ARGV[2], state) end
end
return answer
