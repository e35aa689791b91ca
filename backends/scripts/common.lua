-- Decides requests for locks and releases of several callers on different
-- resources of one repository, as they commonly are: nothing is due, stock
-- Atlantis has done nothing, no request is known already. It stands alone, since
-- making the prelude's functions takes longer than all of this; what it writes is
-- what acquire.lua and release.lua write. A decision that is not common is left
-- to those, with nothing written. A released lock goes to the next waiter when that
-- is a call of a living process, and all that its owner waits for there, and no set
-- waits in the repository, see whole.lua.
--
-- KEYS  1 state  2 deadlines  3 owners  4 forget  5 log  6 queue; where there is one
--       server, two stock's keys for each decision, see the prelude
-- ARGV  1 PUBLISH or SPUBLISH  2 channel of the repository's readers
--       3 LogMaxRecords  4 what the names of channels of waiting processes begin
--       with  from 5 on the decisions:
--         a, resource, owner, its part of the owners' index, priority, lease in
--            microseconds or 0, request, "m" or "-", stock's form
--         r, resource, token or "", owner or "", "1" to force, actor or "", reason
--
-- Answers  {microseconds, "1" when the log is to be tidied, and three for each:
--          granted TOKEN EXPIRES
--          held HEADER DETAILS      by whomever
--          released HEADER DETAILS
--          else "" ""               see the general script}
local call, pcall, find, sub, match, format = redis.call, redis.pcall, string.find, string.sub, string.match, string.format
local STATE = KEYS[1]
local clock = call('TIME')
local now = clock[1] .. sub('000000', #clock[2] + 1) .. clock[2]
local fields, at, count = { 'HMGET', STATE, 'token', 'sequence', 'locks', 'trimmed', 'wake', 'closing', 'waiters' }, 5, 0
while ARGV[at] do
  count = count + 1
  fields[8 + 2 * count] = 'l' .. ARGV[at + 1]
  if ARGV[at] == 'a' then
    fields[9 + 2 * count] = 'r' .. ARGV[at + 6]
    at = at + 9
  else
    fields[9 + 2 * count] = 'd' .. ARGV[at + 1]
    at = at + 7
  end
end
local n = #fields
fields[n + 1], fields[n + 2] = 'kept', 'gone' -- see runs.lua
local v = call(unpack(fields))
local kept, gone = v[n - 1], v[n] and v[n] ~= '0'
local last, sequence, locks, trimmed, waiters = v[1], tonumber(v[2] or ''), tonumber(v[3] or ''), tonumber(v[4] or 0), tonumber(v[7] or 0)
-- Digits of one length compare as numbers do.
local common = last and sequence and locks and trimmed and #last == #now and last < now and not v[6] and waiters and (not kept or kept == '0')
local answer, logs, before = { now, '' }, {}, sequence
-- What is to be written; the first part of it can fail, and is taken back.
local removed, added, leases, unleased, endings, hset, hdel, mirrors
local places, messages -- of waiters that get a lock, and what tells them
local token, freed = 0, 0 -- how many

-- alive reports whether calls in a process still wait, by the field alive.
local function alive(all, process)
  local at = select(2, find('\n' .. all, '\n' .. process .. ' ', 1, true))
  local ends = at and match(all, '^%d+', at)
  return ends and #ends == #now and ends > now
end

-- entryOf is ownerEntry of the prelude.
local function entryOf(owner, resource)
  if sub(owner, 1, 3) ~= 'pr:' then return owner .. '\n' .. resource end
  local host = find(owner, '/', 4, true)
  local number = host and find(owner, '/', host + 1, true)
  if not number then return owner .. '\n' .. resource end
  return 'p' .. sub(owner, number + 1) .. '/' .. sub(owner, 4, host - 1) .. '\n' .. resource
end

at = 5
for i = 1, count do
  local kind, resource, status, x, y = ARGV[at], ARGV[at + 1], 'else', '', ''
  local header, other = v[6 + 2 * i], v[7 + 2 * i]
  local mirror, old = KEYS[5 + 2 * i], KEYS[6 + 2 * i]
  if mirror == STATE then mirror = nil end
  local known = common and (kind == 'r' or waiters == 0)
  if gone and known and kind == 'a' then -- the pull request may be closed
    local prefix = 't' .. ARGV[at + 2] .. '\n'
    known = not call('ZRANGEBYLEX', KEYS[6], '[' .. prefix, '[' .. prefix .. '\255', 'LIMIT', '0', '1')[1]
  end
  if known and kind == 'a' and not header and not other then
    if not mirror or call('EXISTS', mirror, old) == 0 then
      local owner, request = ARGV[at + 2], ARGV[at + 6]
      status, x, y = 'granted', token == 0 and now or format('%d', now + token), '0'
      token = token + 1
      if ARGV[at + 5] ~= '0' then
        y = format('%d', now + ARGV[at + 5])
        leases = leases or { 'ZADD', KEYS[2] }
        leases[#leases + 1] = y
        leases[#leases + 1] = resource
      end
      added = added or { 'ZADD', KEYS[3] }
      added[#added + 1] = '0'
      added[#added + 1] = ARGV[at + 3] .. '\n' .. resource
      logs[#logs + 1] = now .. '\nacquired\n' .. resource .. '\n' .. x .. '\n\nrequest\n' .. request .. '\n\n\n\n\n\n' .. owner .. '\n\n' .. y .. '\n'
      hset = hset or {}
      local h = #hset
      hset[h + 1], hset[h + 2] = fields[8 + 2 * i], x .. '\n' .. now .. '\n' .. y .. '\n' .. ARGV[at + 7] .. '\n' .. ARGV[at + 4] .. '\n' .. owner .. '\n' .. request .. '\n'
      hset[h + 3], hset[h + 4] = 'd' .. resource, ARGV[at + 8]
      hset[h + 5], hset[h + 6] = 'i' .. x, resource
      hset[h + 7], hset[h + 8] = fields[9 + 2 * i], x
      if ARGV[at + 7] == 'm' then
        mirrors = mirrors or {}
        mirrors[#mirrors + 1] = { 'SET', mirror, ARGV[at + 8] }
      end
    end
  elseif known and header then
    local details = other
    if kind == 'a' then details = not other and call('HGET', STATE, 'd' .. resource) end
    -- The lines of a header are token, time, expiry, flag, priority, owner,
    -- request and note.
    local a = find(header, '\n', 1, true)
    local b = a and find(header, '\n', a + 1, true)
    local c = b and find(header, '\n', b + 1, true)
    local flag, expires = c and sub(header, c + 1, c + 1), c and sub(header, b + 1, c - 1)
    if c and details and sub(details, 1, 1) == '{' and (expires == '0' or #expires == #now and expires > now) then
      -- What is handed over needs both of stock's keys.
      local absent = flag == '-' and kind == 'r' and waiters > 0 and mirror and call('EXISTS', mirror, old) == 0
      local stock = not absent and mirror and pcall('GET', mirror)
      if flag == '-' and not stock or flag == 'm' and (not mirror or stock == details) then
        if kind == 'a' then
          status, x, y = 'held', header, details
        else
          local e = find(header, '\n', c + 3, true)
          local f = e and find(header, '\n', e + 1, true)
          local g = f and find(header, '\n', f + 1, true)
          local its, owner = sub(header, 1, a - 1), f and sub(header, e + 1, f - 1)
          local forced, actor = ARGV[at + 4] == '1', ARGV[at + 5]
          local is = g and not find(header, '\n', g + 1, true) and (ARGV[at + 2] == '' or ARGV[at + 2] == its) and
            (forced or ARGV[at + 3] == '' or ARGV[at + 3] == owner)
          -- What the next waiter is given; its record is that of queue.lua.
          local w, place, request, calling, entry
          if is and waiters > 0 then
            local low = 'q' .. resource .. '\n'
            place = call('ZRANGEBYLEX', KEYS[6], '[' .. low, '(' .. low .. ':', 'LIMIT', '0', '1')[1]
          end
          if place then
            is = false
            calling, request = match(place, '^(%S+)\n(.*)$', #resource + 36)
            local parts = request and call('HMGET', STATE, 'q' .. request, 'alive', 'name', 'sets')
            if parts and parts[1] and parts[2] and parts[3] and (not parts[4] or parts[4] == '0') and alive(parts[2], calling) then
              w = { match(parts[1], '^([^\n]*)\n(%d+)\n([^\n]+)\n(%-?%d+)\n(%d+)\n(%d+)\n([m-])\n([^\n]*)\n([^\n]*)\n({.*)$') }
              w.name = parts[3]
            end
            if w and w[1] == resource and w[2] == sub(place, #resource + 3, #resource + 35) and w[8] == calling and (w[7] == '-' or mirror) and
                (not mirror or absent or old == mirror or call('EXISTS', old) == 0) then
              entry = entryOf(w[3], resource)
              local own = call('ZRANGEBYLEX', KEYS[6], '[o' .. entry .. '\n', '[o' .. entry .. '\n\255', 'LIMIT', '0', '2')
              is = #own == 1 and own[1] == 'o' .. entry .. '\n' .. request
            end
          end
          if is then
            status, x, y = 'released', header, details
            if actor == owner then actor = '' end
            removed = removed or { 'ZREM', KEYS[3] }
            removed[#removed + 1] = entryOf(owner, resource)
            endings = endings or { 'RPUSH', KEYS[4] }
            endings[#endings + 1] = now .. ' ' .. its
            logs[#logs + 1] = now .. '\nreleased\n' .. resource .. '\n' .. its .. '\n' .. actor .. '\n' .. (forced and 'forced' or 'request') ..
              '\n\n' .. ARGV[at + 6] .. '\n' .. owner .. '\n\n' .. expires .. '\n' .. sub(header, g + 1) .. '\n\n\n\n'
            hset, hdel = hset or {}, hdel or { 'HDEL', STATE }
            hset[#hset + 1] = 'i' .. its
            hset[#hset + 1] = 'released\n' .. resource .. '\n' .. owner .. '\n' .. sub(header, f + 1, g - 1)
            freed = freed + 1
            local leased
            if w then
              local new = token == 0 and now or format('%d', now + token)
              token = token + 1
              leased = w[6] ~= '0' and format('%d', now + w[6])
              if leased then
                leases = leases or { 'ZADD', KEYS[2] }
                leases[#leases + 1] = leased
                leases[#leases + 1] = resource
              end
              added = added or { 'ZADD', KEYS[3] }
              added[#added + 1] = '0'
              added[#added + 1] = entry
              logs[#logs + 1] = now .. '\ngranted\n' .. resource .. '\n' .. new .. '\n\nhand_over\n' .. request .. '\n\n\n\n\n\n' .. w[3] ..
                '\n\n' .. (leased or '0') .. '\n' .. w[9]
              local its = new .. '\n' .. now .. '\n' .. (leased or '0') .. '\n' .. w[7] .. '\n' .. w[4] .. '\n' .. w[3] .. '\n' .. request .. '\n' .. w[9]
              local h = #hset
              hset[h + 1], hset[h + 2] = fields[8 + 2 * i], its
              hset[h + 3], hset[h + 4] = fields[9 + 2 * i], w[10]
              hset[h + 5], hset[h + 6] = 'i' .. new, resource
              hset[h + 7], hset[h + 8] = 'r' .. request, new
              hdel[#hdel + 1] = 'q' .. request
              places, messages = places or { 'ZREM', KEYS[6] }, messages or {}
              places[#places + 1] = place
              places[#places + 1] = 'o' .. entry .. '\n' .. request
              messages[#messages + 1] = { ARGV[4] .. calling, w.name .. '\n' .. request .. '\ngranted\n' .. its }
            else
              hdel[#hdel + 1] = fields[8 + 2 * i]
              hdel[#hdel + 1] = fields[9 + 2 * i]
            end
            if expires ~= '0' and not leased then
              unleased = unleased or { 'ZREM', KEYS[2] }
              unleased[#unleased + 1] = resource
            end
            if stock or w and w[7] == 'm' then
              mirrors = mirrors or {}
              mirrors[#mirrors + 1] = w and w[7] == 'm' and { 'SET', mirror, match(w[10], '^[^\n]*') } or { 'DEL', mirror }
            end
          end
        end
      end
    end
  end
  local n = 3 * i
  answer[n], answer[n + 1], answer[n + 2] = status, x, y
  at = at + (kind == 'a' and 9 or 7)
end
if not hset then return answer end

-- What frees memory comes first, since a server without any refuses a script at
-- its first write only.
local done, failed = {}, false
for _, command in ipairs({ removed or false, unleased or false, added or false, leases or false, endings or false }) do
  if command and not failed then
    local reply = pcall(unpack(command))
    failed = type(reply) == 'table'
    if not failed then done[#done + 1] = command end
  end
end
if not failed then
  failed = type(pcall('XADD', KEYS[5], format('%d', sequence + 1) .. '-0', 'd', logs[1])) == 'table'
end
if failed then
  -- The general scripts say why.
  for i = #done, 1, -1 do
    local command = done[i]
    if command == endings then
      for _ = 3, #command do call('RPOP', KEYS[4]) end
    elseif command == added then
      for k = 4, #command, 2 do call('ZREM', KEYS[3], command[k]) end
    elseif command == leases then
      for k = 4, #command, 2 do call('ZREM', KEYS[2], command[k]) end
    elseif command == removed then
      for k = 3, #command do call('ZADD', KEYS[3], '0', command[k]) end
    end
  end
  for i = 3, #answer, 3 do answer[i], answer[i + 1], answer[i + 2] = 'else', '', '' end
  if unleased or leases then
    for i = 1, count do
      local header = v[6 + 2 * i]
      local expires = header and match(header, '^%d+\n%d+\n(%d+)\n')
      local resource = sub(fields[8 + 2 * i], 2)
      if expires and expires ~= '0' then call('ZADD', KEYS[2], expires, resource) end
    end
  end
  return answer
end
for i = 2, #logs do call('XADD', KEYS[5], format('%d', sequence + i) .. '-0', 'd', logs[i]) end
sequence = sequence + #logs
if messages then
  hset[#hset + 1] = 'waiters'
  hset[#hset + 1] = format('%d', math.max(waiters - #messages, 0))
end
if hdel then call(unpack(hdel)) end
call('HSET', STATE, 'sequence', format('%d', sequence), 'token', token == 0 and last or format('%d', now + token - 1),
  'locks', format('%d', locks + token - freed), unpack(hset))
if mirrors then
  for _, command in ipairs(mirrors) do call(unpack(command)) end
end
if places then call(unpack(places)) end
-- Who misses it asks.
for _, message in ipairs(messages or {}) do pcall('PUBLISH', message[1], message[2]) end
if v[5] and v[5] > now then pcall(ARGV[1], ARGV[2], STATE) end
if math.floor(sequence / 64) ~= math.floor(before / 64) or sequence - trimmed - ARGV[3] > 64 then answer[2] = '1' end
return answer
