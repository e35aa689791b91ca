-- Decides requests, renewals and releases of locks for several callers on different
-- resources, of one repository or, where there is one server, of several, as they
-- commonly are: nothing is due, stock Atlantis has done nothing, no request is known
-- already. It stands alone, since making the prelude's functions takes longer than
-- all of this; what it writes is what acquire.lua, refresh.lua and release.lua write. A decision
-- that is not common is left to those, with nothing written. A released lock goes to
-- the next waiter when that is a call of a living process, and in the repository no
-- owner waits twice for one resource, see queue.lua, and no set, see whole.lua.
--
-- Each decision is taken by itself, one after the other: tables that gather what
-- several write cost more than the commands that they save. Nothing here may raise an
-- error once another decision has written: what reads keys that a decision has not
-- read yet does so with pcall, and what is odd is left to the general script. But a
-- lock whose details the caller has is not looked at for them, whatever their state.
--
-- KEYS  four of each repository: state, deadlines, log, queue; then,
--       where there is one server and the resources have them, two stock's keys for
--       each decision, see the prelude. No two decisions share one.
-- ARGV  1 PUBLISH or SPUBLISH  2 channel of the repositories' readers
--       3 what the names of channels of waiting processes begin with  4 how many
--       repositories, and from 5 on for each how many decisions, and those:
--         lease in microseconds or 0, resource, request, owner, member of the queue
--           that leads from the owner to the lock, flag and priority as lines of a
--           header, stock's form
--         r, resource, token or "", owner or "", "" or how: "1" or "0" to force or
--           not, a line break, actor or "", a line break, reason; token of the lock
--           whose details the caller has, or ""
--         f, resource, token, lease in microseconds from now
--
-- Answers  {microseconds, numbers of the repositories whose logs are to be tidied,
--          and three for each decision
--          g TOKEN EXPIRES    granted
--          h HEADER DETAILS   held, by whomever
--          r HEADER DETAILS   released; details are "" where the caller has them
--          f "" ""            refreshed
--          e "" ""            see the general script}
local call, pcall, find, sub, match, format = redis.call, redis.pcall, string.find, string.sub, string.match, string.format
local KEYS, ARGV = KEYS, ARGV
local clock = call('TIME')
local now = clock[1] .. sub('000000', #clock[2] + 1) .. clock[2]
local groups = ARGV[4] + 0
local stock = 4 * groups -- where stock's keys begin
local stocked = #KEYS > stock
local there = stocked and call('EXISTS', unpack(KEYS, stock + 1)) or 0 -- under how many of them something is
local absent = there == 0
local answer, reply, at = { now, '' }, 2, 5

-- entryOf is ownerEntry of the prelude.
local function entryOf(owner, resource)
  if sub(owner, 1, 3) ~= 'pr:' then return owner .. '\n' .. resource end
  local host = find(owner, '/', 4, true)
  local number = host and find(owner, '/', host + 1, true)
  if not number then return owner .. '\n' .. resource end
  return 'p' .. sub(owner, number + 1) .. '/' .. sub(owner, 4, host - 1) .. '\n' .. resource
end

-- nextOf returns who is next in the queue of a resource, nil for nobody: place, and
-- when it is common request, record, process and name of the repository. In a simple
-- queue are no sets, and nobody waits twice.
local function nextOf(STATE, QUEUE, resource, simple)
  local low = 'q' .. resource .. '\n'
  local first = pcall('ZRANGEBYLEX', QUEUE, '[' .. low, '(' .. low .. ':', 'LIMIT', '0', '1')
  if first.err then return low end
  local place = first[1]
  if not place then return nil end
  local process, request = match(place, '^(%S+)\n(.*)$', #resource + 36)
  local parts = request and simple and pcall('HMGET', STATE, 'r' .. request, 'alive', 'name')
  if not (parts and not parts.err and parts[1] and parts[2] and parts[3]) then return place end
  -- Calls in it still wait, by the field alive.
  local told = select(2, find('\n' .. parts[2], '\n' .. process .. ' ', 1, true))
  local ends = told and match(parts[2], '^%d+', told)
  if not (ends and #ends == #now and ends > now) then return place end
  local w = { match(parts[1], '^([^\n]*)\n(%d+)\n([^\n]+)\n(%-?%d+)\n(%d+)\n(%d+)\n([m-])\n([^\n]*)\n([^\n]*)\n({.*)$') }
  if w[1] ~= resource or w[2] ~= sub(place, #resource + 3, #resource + 35) or w[8] ~= process then return place end
  return place, request, w, process, parts[3]
end

for group = 1, groups do
  local k = 4 * group
  local STATE, DEADLINES, LOG, QUEUE = KEYS[k - 3], KEYS[k - 2], KEYS[k - 1], KEYS[k]
  local woken, tidy = false, false
  at = at + 1
  for _ = 1, ARGV[at - 1] do
    local kind, resource, status, x, y, v, id = ARGV[at], ARGV[at + 1], 'e', '', ''
    local mirror, old
    if stocked then
      mirror, old = KEYS[stock + 1], KEYS[stock + 2]
      stock = stock + 2
    end
    local held = 'l' .. resource -- field of the lock's header; other is a second one
    local has = kind == 'r' and ARGV[at + 5] -- token of the lock whose details need not be read
    local other = kind == 'r' and has == '' and 'd' .. resource or kind ~= 'r' and kind ~= 'f' and 'r' .. ARGV[at + 2]
    if other then
      v = pcall('HMGET', STATE, 'counters', held, other)
    else
      v = pcall('HMGET', STATE, 'counters', held)
    end
    local counters, header, second = v[1], v[2], v[3]
    -- See count in the prelude. Nothing is reserved, and nobody is being closed.
    local last, sequence, locks, count, wake, waiters, gone, more, rest =
      match(counters or '', '^(%d+) (%d+) (%-?%d+) (%d+) (%d+) (%d+) (%d+) 0 0 (%d+ %d+) (%d+ %d+)$')
    -- Digits of one length compare as numbers do.
    local common = last and #last == #now and #count < 16
    if waiters == '0' then waiters = false end
    local token = last and last < now and now
    local number, written -- of the log's last record, and as it is written, when something was
    if kind == 'r' then
      local is, expires, flag, holder, request, note
      if common and header then
        -- The lines of a header are token, time, expiry, flag, priority, owner,
        -- request and note.
        is, expires, flag, holder, request, note = match(header, '^([1-9]%d*)\n%d+\n(%d+)\n([-m])\n%-?%d+\n([^\n]+)\n([^\n]*)\n([^\n]*)$')
      end
      local copy = is and not absent and pcall('GET', mirror)
      local spared = is and is == has and flag == '-'
      if is and not spared and has ~= '' then second = call('HGET', STATE, 'd' .. resource) end
      if is and (spared or second and sub(second, 1, 1) == '{') and (expires == '0' or #expires == #now and expires > now) and
          (flag == '-' and not copy or flag == 'm' and (not stocked or copy == second)) then
        local its, owner, how, forced, actor, reason = ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], false, '', ''
        if how ~= '' then
          forced, actor, reason = match(how, '^(.)\n([^\n]*)\n(.*)$')
          forced = forced == '1'
          if actor == holder then actor = '' end
        end
        local free = (its == '' or its == is) and (forced or owner == '' or owner == holder)
        local place, asks, w, process, name
        if free and waiters then
          place, asks, w, process, name = nextOf(STATE, QUEUE, resource, more == '0 0')
          -- What is handed over needs both of stock's keys.
          free = not place or w and (w[7] == '-' or stocked) and (absent or old == mirror or copy and there == 1 or call('EXISTS', old) == 0)
        end
        -- What frees memory comes first, since a server without any refuses a script
        -- at its first write only. What leads from its owner to the next waiter leads
        -- to its lock from now on.
        local leaves = free and 'o' .. entryOf(holder, resource) .. '\n' .. request
        if free and type(place and pcall('ZREM', QUEUE, place, leaves) or pcall('ZREM', QUEUE, leaves)) == 'number' then
          local leased = w and w[6] ~= '0' and format('%d', now + w[6])
          local timed = not leased and expires == '0'
          if leased then
            timed = type(pcall('ZADD', DEADLINES, leased, resource)) == 'number'
          elseif not timed then
            timed = type(pcall('ZREM', DEADLINES, resource)) == 'number'
          end
          local record = now .. '\nreleased\n' .. resource .. '\n' .. is .. '\n' .. actor ..
            (forced and '\nforced\n\n' or '\nrequest\n\n') .. reason .. '\n' .. holder .. '\n\n' .. expires .. '\n' .. note .. '\n\n\n\n'
          if w then
            -- Both records are one entry, see log.lua.
            token = token or format('%d', last + 1)
            number = sequence + 2
            written = format('%d', number)
            id = timed and pcall('XADD', LOG, written .. '-0', 'd', record, 'd', now .. '\ngranted\n' .. resource .. '\n' ..
              token .. '\n\nhand_over\n' .. asks .. '\n\n\n\n\n\n' .. w[3] .. '\n\n' .. (leased or '0') .. '\n' .. w[9])
          else
            number = sequence + 1
            written = format('%d', number)
            id = timed and pcall('XADD', LOG, written .. '-0', 'd', record)
          end
          if type(id) ~= 'string' then
            -- The general script says why.
            written = nil
            if timed and expires ~= '0' then
              call('ZADD', DEADLINES, expires, resource)
            elseif timed and leased then
              call('ZREM', DEADLINES, resource)
            end
            call('ZADD', QUEUE, '0', leaves)
            if place then call('ZADD', QUEUE, '0', place) end
          else
            status, x, y = 'r', header, second or ''
            count = format('%d', count + 1)
            local ending = 'released\n' .. resource .. '\n' .. holder .. '\n' .. request
            if w then
              local new = token .. '\n' .. now .. '\n' .. (leased or '0') .. '\n' .. w[7] .. '\n' .. w[4] .. '\n' .. w[3] .. '\n' .. asks .. '\n' .. w[9]
              call('HSET', STATE, 'counters', token .. ' ' .. written .. ' ' .. locks .. ' ' .. count .. ' ' .. wake .. ' ' ..
                format('%d', waiters - 1) .. ' ' .. gone .. ' 0 0 0 0 ' .. rest, 'i' .. is, ending, 'e' .. count, now .. ' ' .. is,
                held, new, 'd' .. resource, w[10], 'i' .. token, resource, 'r' .. asks, token)
              -- Who misses it asks.
              pcall('PUBLISH', ARGV[3] .. process, name .. '\n' .. asks .. '\ngranted\n' .. new)
            else
              call('HDEL', STATE, held, 'd' .. resource)
              call('HSET', STATE, 'counters', last .. ' ' .. written .. ' ' .. format('%d', locks - 1) .. ' ' .. count .. ' ' .. wake .. ' ' ..
                (waiters or '0') .. ' ' .. gone .. ' 0 0 ' .. more .. ' ' .. rest, 'i' .. is, ending, 'e' .. count, now .. ' ' .. is)
            end
            if w and w[7] == 'm' then
              call('SET', mirror, match(w[10], '^[^\n]*'))
            elseif copy then
              call('DEL', mirror)
            end
          end
        end
      end
      at = at + 6
    elseif kind == 'f' then
      local is, acquired, expires, tail, flag, holder, note
      if common and header then
        is, acquired, expires, tail, flag, holder, note = match(header, '^([1-9]%d*)\n(%d+)\n(%d+)(\n([-m])\n%-?%d+\n([^\n]+)\n[^\n]*\n([^\n]*))$')
      end
      if is and is == ARGV[at + 2] and #expires == #now and expires > now then
        local copy = not absent and pcall('GET', mirror)
        if flag == '-' and not copy or flag == 'm' and (not stocked or copy and copy == call('HGET', STATE, 'd' .. resource)) then
          local new = format('%d', now + ARGV[at + 3])
          number = sequence + 1
          written = format('%d', number)
          id = type(pcall('ZADD', DEADLINES, new, resource)) == 'number' and pcall('XADD', LOG, written .. '-0', 'd', now ..
            '\nrefreshed\n' .. resource .. '\n' .. is .. '\n\nrequest\n\n\n' .. holder .. '\n\n' .. expires .. '\n' .. note .. '\n' ..
            holder .. '\n\n' .. new .. '\n' .. note)
          if type(id) == 'string' then
            status = 'f'
            call('HSET', STATE, 'counters', last .. ' ' .. written .. sub(counters, #last + #sequence + 2),
              held, is .. '\n' .. acquired .. '\n' .. new .. tail)
          else
            -- The general script says why.
            if id then call('ZADD', DEADLINES, expires, resource) end
            written = nil
          end
        end
      end
      at = at + 4
    else
      local request, owner, lease = ARGV[at + 2], ARGV[at + 3], kind
      local known = common and not waiters
      if known and gone ~= '0' then -- the pull request may be closed
        local prefix = 't' .. owner .. '\n'
        local marks = pcall('ZRANGEBYLEX', QUEUE, '[' .. prefix, '[' .. prefix .. '\255', 'LIMIT', '0', '1')
        known = not marks.err and not marks[1]
      end
      if known and not header and not second and (absent or call('EXISTS', mirror, old) == 0) then
        local expires, leased = '0', lease ~= '0'
        token = token or format('%d', last + 1)
        if leased then expires = format('%d', now + lease) end
        local added = type(pcall('ZADD', QUEUE, '0', ARGV[at + 4])) == 'number'
        local timed = added and leased and type(pcall('ZADD', DEADLINES, expires, resource)) == 'number'
        number = sequence + 1
        written = format('%d', number)
        id = added and (timed or not leased) and pcall('XADD', LOG, written .. '-0', 'd',
          now .. '\nacquired\n' .. resource .. '\n' .. token .. '\n\nrequest\n' .. request .. '\n\n\n\n\n\n' .. owner .. '\n\n' .. expires .. '\n')
        if type(id) ~= 'string' then
          -- The general script says why.
          if timed then call('ZREM', DEADLINES, resource) end
          if added then call('ZREM', QUEUE, ARGV[at + 4]) end
          written = nil
        else
          status, x, y = 'g', token, expires
          call('HSET', STATE, 'counters', token .. ' ' .. written .. ' ' .. format('%d', locks + 1) .. sub(counters, #last + #sequence + #locks + 3),
            held, token .. '\n' .. now .. '\n' .. expires .. ARGV[at + 5] .. owner .. '\n' .. request .. '\n',
            'd' .. resource, ARGV[at + 6], 'i' .. token, resource, other, token)
          if sub(ARGV[at + 5], 2, 2) == 'm' then call('SET', mirror, ARGV[at + 6]) end
        end
      elseif known and header then
        local expires, flag = match(header, '^%d+\n%d+\n(%d+)\n(.)\n')
        local details = flag and not second and call('HGET', STATE, 'd' .. resource)
        if details and sub(details, 1, 1) == '{' and (expires == '0' or #expires == #now and expires > now) then
          local copy = not absent and pcall('GET', mirror)
          if flag == '-' and not copy or flag == 'm' and (not stocked or copy == details) then status, x, y = 'h', header, details end
        end
      end
      at = at + 7
    end
    if written then
      woken = woken or wake ~= '0' and wake > now
      tidy = tidy or number % 64 < number - sequence
    end
    answer[reply + 1], answer[reply + 2], answer[reply + 3] = status, x, y
    reply = reply + 3
  end
  if woken then pcall(ARGV[1], ARGV[2], STATE) end
  if tidy then answer[2] = answer[2] .. ' ' .. group end
end
return answer
