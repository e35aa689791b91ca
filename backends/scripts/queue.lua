-- Waiters and their order, shared by the scripts that can hand a lock over; it follows
-- the prelude. What waiters are given is in turns.lua. Its functions are made when somebody
-- waits, since that takes longer than a step.
--
-- KEYS  4 queue, see the prelude
--
-- The queue is one sorted set in lexical order. It has two members for a waiter, and
-- the second one for a lock, with the request of its header:
--   q RESOURCE \n RANK PROCESS \n REQUEST   where it stands in its queue; PROCESS
--                                           is empty for a detached waiter
--   o ENTRY \n REQUEST                      what its owner waits for, or holds; ENTRY
--                                           is that of ownerEntry in the prelude
-- So the member of a waiter becomes that of its lock, and stays as it is. Which it is
-- of, the state says: of a lock when the header on its resource has that owner and
-- request.
-- The state has for a waiter the field r REQUEST, with the lines resource, rank,
-- owner, priority, time, lease or 0, flag, process and note, and then what the
-- details of its lock will be. The token of the lock that it gets takes its place: a
-- request whose field is a number does not wait.
-- The counter twice counts the waiters beyond the first of their owner for their resource:
-- where it is 0, nobody is given what he waits for a second time, and the script for
-- common cases need not look.
--
-- A waiter is alive while its process is. The field alive has a line for each
-- process that calls wait in: PROCESS MICROSECONDS, until when it counts as alive.
-- A detached waiter, for which no call stands, is alive for DetachedQueueTimeout,
-- while there are queues.

S.queue = function()
  if S.functions then return S.functions end
  local Q = { dead = {} }
  S.functions = Q

  -- bounds returns the bounds of a resource's queue: a rank begins with a digit.
  local function bounds(resource)
    return '[q' .. resource .. '\n', '(q' .. resource .. '\n:'
  end

  -- rankOf is the order of package queue: the lower text is served first. A
  -- negative score begins with 0, and so comes before all others.
  function Q.rankOf(priority, enqueued, sequence, aging)
    local score
    if aging == 0 then
      score = (1000 - priority) * 4398046511104 + math.min(sequence, 4398046511103)
    else
      score = math.floor(enqueued / 1000) - priority * aging
    end
    local sign = '1'
    if score < 0 then sign, score = '0', score + 9007199254740992 end
    return string.format('%s%016d%016d', sign, score, sequence)
  end

  local function place(w)
    return 'q' .. w.resource .. '\n' .. w.rank .. w.process .. '\n' .. w.request
  end

  Q.place = place

  function Q.recordOf(w)
    return w.resource .. '\n' .. w.rank .. '\n' .. w.owner .. '\n' .. w.priority .. '\n' .. w.enqueued .. '\n' .. w.lease .. '\n' ..
      (w.mark or w.flag) .. '\n' .. w.process .. '\n' .. w.note .. '\n' .. w.details
  end

  -- read takes the record of a request's waiter apart; nil when it can't.
  function Q.read(request, text)
    local resource, rank, owner, priority, enqueued, lease, mark, process, note, details = string.match(text or '',
      '^([^\n]*)\n(%d+)\n([^\n]*)\n(%-?%d+)\n(%d+)\n(%d+)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
    if not rank or #rank ~= 33 then return nil end
    local w = {
      resource = resource, rank = rank, owner = owner, priority = priority, enqueued = enqueued, lease = lease, flag = mark,
      process = process, note = note, details = details, request = request,
    }
    if #mark == 1 then return w end
    -- It is of a set, see whole.lua.
    local flag, size, set, present, before, given = string.match(mark, '^([m-])\t(%d+)\t([^\t]+)\t([^\t]*)\t([^\t]*)\t?(%d*)$')
    if not flag then return nil end
    w.mark, w.flag, w.size, w.set, w.given = mark, flag, size + 0, set, given ~= '' and given or nil
    w.stock = { present ~= '' and present or nil, before ~= '' and before or nil }
    return w
  end

  -- load returns the waiter of a request; nil for none.
  function Q.load(request)
    return Q.read(request, call('HGET', KEYS[1], 'r' .. request))
  end

  -- isAlive reports whether calls in a process still wait.
  function Q.isAlive(process)
    if not Q.alive then
      Q.alive = {}
      for name, ends in string.gmatch(call('HGET', KEYS[1], 'alive') or '', '(%S+) (%d+)') do
        Q.alive[name] = ends + 0 > S.now
      end
    end
    return Q.alive[process]
  end

  -- isLate reports whether a detached waiter has waited for long enough.
  local function isLate(w)
    return w.process == '' and times().late > 0 and S.now - w.enqueued >= times().late
  end

  -- waits reports whether the waiter of a request can be given anything.
  local function waits(process, request)
    if process ~= '' then return Q.isAlive(process) end
    local w = times().late > 0 and Q.load(request)
    return times().claim > 0 and not (w and isLate(w))
  end

  -- pulse says that a process is alive for some time, unless that is known. It
  -- is no change, and works while the server has no memory left, see append.
  function Q.pulse(process, time)
    local lines, known = {}, false
    for name, ends in string.gmatch(call('HGET', KEYS[1], 'alive') or '', '(%S+) (%d+)') do
      if name == process then
        known = ends - S.now > time * 0.9
      elseif ends + 0 > S.now then
        lines[#lines + 1] = name .. ' ' .. ends
      end
    end
    if known then return end
    lines[#lines + 1] = process .. ' ' .. int(S.now + time)
    redis.pcall('HDEL', KEYS[1], '')
    redis.pcall('HSET', KEYS[1], 'alive', table.concat(lines, '\n'))
    Q.alive = nil
  end

  -- tell sends a waiter's process what became of it, or of its set. One that misses
  -- that asks.
  local function tell(w, ...)
    if w.process == '' then return end
    if w.set then
      redis.pcall('PUBLISH', ARGV[6] .. ':' .. w.process, table.concat({ S.name, w.set, 'set', w.resource, ... }, '\n'))
      return
    end
    redis.pcall('PUBLISH', ARGV[6] .. ':' .. w.process, table.concat({ S.name, w.request, ... }, '\n'))
  end

  Q.tell = tell

  function Q.put(w, members)
    members[#members + 1], members[#members + 2] = '0', place(w)
    members[#members + 1], members[#members + 2] = '0', memberOf(w.owner, w.resource, w.request)
  end

  -- discount counts a waiter out that does not wait any more.
  function Q.discount(w)
    if S.twice > 0 and Q.isWaiting(w.owner, w.resource) then S.twice = S.twice - 1 end
  end

  -- remove takes a waiter out of the queue; one that is granted has a token by now, and
  -- what led to it leads to its lock.
  function Q.remove(w)
    S.waiters = math.max(S.waiters - 1, 0)
    if w.granted then
      call('ZREM', KEYS[4], place(w))
    else
      call('HDEL', KEYS[1], 'r' .. w.request)
      call('ZREM', KEYS[4], place(w), memberOf(w.owner, w.resource, w.request))
    end
    Q.discount(w)
    store()
  end

  -- dequeue takes a waiter out without a lock, with all of its set, and tells it why.
  function Q.dequeue(w, event, actor, cause, ...)
    if w.set then return S.whole().dequeue(w, event, actor, cause, ...) end
    prepare(true, false)
    -- A deadlock's record is its reason.
    append(event, w.resource, actor, cause, w.request, event == 'deadlock' and select(2, ...) or '', { owner = w.owner, token = '0', expires = '0' }, nil)
    Q.remove(w)
    if ... then tell(w, ...) end
  end

  -- dequeueDead takes out a waiter that can't be given anything.
  function Q.dequeueDead(w)
    Q.dequeue(w, isLate(w) and 'queue_timeout' or 'cancelled', 'system:store', 'expired', 'gone')
  end

  -- each calls visit for the waiters of a resource in their order, until it
  -- answers false. Those that can't be read are passed over, and up to 100 of
  -- those that have died are taken out afterwards. Without visit nobody alive is
  -- read, and it ends where some have died.
  function Q.each(resource, visit)
    local low, high = bounds(resource)
    local size, dead, goesOn = visit and '1' or '100', {}, true
    repeat
      local page = call('ZRANGEBYLEX', KEYS[4], low, high, 'LIMIT', '0', size)
      size, low = '100', '(' .. (page[#page] or '')
      for _, member in ipairs(page) do
        local process, request = string.match(member, '^(%S*)\n(.*)$', #resource + 36)
        local alive = request and waits(process, request)
        local w = alive and (not visit or Q.load(request))
        if w then
          goesOn = not visit or visit(w)
          if not goesOn then break end
        elseif request and #dead < 100 and not alive then
          dead[#dead + 1] = Q.load(request)
        end
      end
    until not goesOn or #page == 0 or not visit and #dead > 0
    for _, w in ipairs(dead) do
      if w.set and S.whole().isEnough() then break end
      Q.dequeueDead(w)
    end
  end

  -- isWanted reports whether somebody waits for a resource.
  function Q.isWanted(resource)
    local wanted = false
    Q.each(resource, function()
      wanted = true
      return false
    end)
    return wanted
  end

  -- ownWaiter returns the first of an owner's waiters for a resource for which visit
  -- answers true, nil for none.
  function Q.ownWaiter(owner, resource, visit)
    local prefix = 'o' .. ownerEntry(owner, resource) .. '\n'
    local low, high = '[' .. prefix, '[' .. prefix .. '\255'
    repeat
      local page = call('ZRANGEBYLEX', KEYS[4], low, high, 'LIMIT', '0', '100')
      for _, member in ipairs(page) do
        local w = Q.load(sub(member, #prefix + 1))
        if w and visit(w) then return w end
      end
      low = '(' .. (page[#page] or '')
    until #page < 100
    return nil
  end

  -- isWaiting reports whether an owner waits for a resource.
  function Q.isWaiting(owner, resource)
    return Q.ownWaiter(owner, resource, function() return true end) ~= nil
  end

  -- hasPlace reports whether an owner has a detached waiter for a resource.
  function Q.hasPlace(owner, resource)
    return Q.ownWaiter(owner, resource, function(w) return w.process == '' and not isLate(w) end) ~= nil
  end

  -- dequeueLate takes out the detached waiter with a place, if it waits no more.
  function Q.dequeueLate(member)
    local request = string.match(member, '\n([^\n]*)$')
    local w = request and Q.load(request)
    if w and place(w) == member and isLate(w) then Q.dequeueDead(w) end
  end

  -- reorder ranks all waiters anew where they were ranked by another interval of
  -- ageing. One that was moved to the front stays there.
  function Q.reorder(aging)
    local before = call('HGET', KEYS[1], 'aging') or '0'
    if before == aging then return end
    for _, member in ipairs(S.waiters > 0 and call('ZRANGEBYLEX', KEYS[4], '[q', '(r') or {}) do
      local w = Q.load(string.match(member, '\n([^\n]*)$'))
      if w and not (sub(w.rank, 1, 1) == '0' and tonumber(sub(w.rank, 2, 17)) < 4503599627370496) then
        call('ZREM', KEYS[4], member)
        w.rank = Q.rankOf(w.priority + 0, w.enqueued + 0, tonumber(sub(w.rank, 18)), aging + 0)
        call('ZADD', KEYS[4], '0', place(w))
        call('HSET', KEYS[1], 'r' .. w.request, Q.recordOf(w))
      end
    end
    call('HSET', KEYS[1], 'aging', aging)
  end

  -- toFront puts a waiter before all others. The number keeps those of one record
  -- apart, of which the lowest is the first.
  function Q.toFront(w, number)
    local before = place(w)
    w.rank = string.format('0%016d%016d', 4503599627370496 - S.sequence, number)
    call('ZREM', KEYS[4], before)
    call('ZADD', KEYS[4], '0', place(w))
    store('r' .. w.request, Q.recordOf(w))
  end

  -- move puts the waiters of an owner for a resource before all others, and
  -- reports whether there are any. The log counts up, so its sequence is the order
  -- of moves. Each goes to the front, so the first one is the last to go.
  function Q.move(owner, resource, actor, reason)
    local all = {}
    Q.ownWaiter(owner, resource, function(w) all[#all + 1] = w end)
    table.sort(all, function(a, b) return a.rank > b.rank end)
    for _, w in ipairs(all) do
      prepare(true, false)
      append('moved', resource, actor, 'forced', w.request, reason, { owner = w.owner, token = '0', expires = '0' }, nil)
      Q.toFront(w, 0)
    end
    return #all > 0
  end

  -- isFull returns how many wait for a resource when those are limit or more, after
  -- those that have died were taken out; else nil.
  function Q.isFull(resource, limit)
    local low, high = bounds(resource)
    if call('ZLEXCOUNT', KEYS[4], low, high) < limit then return nil end
    Q.each(resource)
    local count = call('ZLEXCOUNT', KEYS[4], low, high)
    return count >= limit and int(count) or nil
  end

  -- enqueue has a waiter, which has no rank yet, wait. It returns how many wait
  -- already when those are limit or more. With check, which is called before, that
  -- can answer instead; then nobody waits, and the answer is the second result.
  function Q.enqueue(w, limit, aging, time, check)
    local full = Q.isFull(w.resource, limit)
    if full then return full end
    if check then
      Q.reorder(aging)
      w.rank, w.enqueued = Q.rankOf(w.priority + 0, S.now, S.sequence + 1, aging + 0), S.text
      local answer = check(w)
      if answer then return nil, answer end
    end
    local again = Q.isWaiting(w.owner, w.resource)
    prepare(false, w.lease ~= '0')
    append('queued', w.resource, w.owner, 'request', w.request, '', { owner = w.owner, token = '0', expires = '0' }, nil)
    Q.reorder(aging)
    -- The log counts up, so its sequence is the order in which waiters came.
    w.rank, w.enqueued = Q.rankOf(w.priority + 0, S.now, S.sequence, aging + 0), S.text
    S.waiters, S.twice = S.waiters + 1, S.twice + (again and 1 or 0)
    store('r' .. w.request, Q.recordOf(w))
    local members = { 'ZADD', KEYS[4] }
    Q.put(w, members)
    call(unpack(members))
    if w.process ~= '' then Q.pulse(w.process, time) end
  end

  -- assign gives a waiter to a process.
  function Q.assign(w, process)
    local before = place(w)
    w.process = process
    call('ZREM', KEYS[4], before)
    call('ZADD', KEYS[4], '0', place(w))
    call('HSET', KEYS[1], 'r' .. w.request, Q.recordOf(w))
  end

  -- adopt gives a waiter to the process that asks for it now, and tells the one
  -- that has asked before.
  function Q.adopt(w, process, time)
    if w.process ~= process then
      tell(w, 'elsewhere')
      Q.assign(w, process)
    end
    Q.pulse(process, time)
  end

  -- placeOf returns where a waiter stands, from 1, and how many there are.
  function Q.placeOf(w)
    local low, high = bounds(w.resource)
    return int(call('ZLEXCOUNT', KEYS[4], low, '[' .. place(w))), int(call('ZLEXCOUNT', KEYS[4], low, high))
  end

  -- dequeueAll takes up to limit of an owner's waiters for a resource out, and returns
  -- how many it has met.
  function Q.dequeueAll(owner, resource, actor, cause, limit)
    local all = {}
    Q.ownWaiter(owner, resource, function(w)
      all[#all + 1] = w
      return #all == limit
    end)
    for _, w in ipairs(all) do
      Q.dequeue(w, 'cancelled', actor, cause, 'cancelled', actor)
    end
    return #all
  end

  return Q
end
