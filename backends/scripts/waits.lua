-- Who waits for whom; it follows the prelude, the queue and what runs leave. Its
-- functions are made when they are needed, as those of the queue.
--
-- KEYS  1 state  4 queue, see the prelude
--
-- The walk is that of package deadlock, step by step: along each queue from a
-- waiter to the one directly ahead, and from an owner to what it waits for. A script
-- only finds out whether there is a cycle. Which one, and whether moving waiters
-- dissolves it, the program says by the picture that the walk has of what it has
-- read; the script acts on that if the picture is still the same. So the step that
-- acts has looked at everything itself.

S.waits = function()
  local Q, W, match = S.queue(), {}, string.match

  -- isLate is for a waiter without a process.
  local function isLate(enqueued)
    return times().claim == 0 or times().late > 0 and S.now - enqueued >= times().late
  end

  -- read takes a waiter's record apart; nil for one that can't be read, and for one
  -- that nothing can be given to.
  local function read(request, text)
    if not text then return nil end
    local resource, rank, owner, priority, enqueued, process =
      match(text, '^([^\n]*)\n(%d+)\n([^\n]+)\n(%-?%d+)\n(%d+)\n%d+\n[^\n]*\n([^\n]*)\n')
    if not resource or #rank ~= 33 then return nil end
    if process == '' and isLate(enqueued) or process ~= '' and not Q.isAlive(process) or isClosing(owner) then return nil end
    return { request = request, resource = resource, rank = rank, owner = owner, priority = priority, enqueued = enqueued, process = process }
  end

  -- readAll returns the waiters to which members of the queue lead.
  local function readAll(members)
    if #members == 0 then return {} end
    local fields, requests = { 'HMGET', KEYS[1] }, {}
    for i, member in ipairs(members) do
      requests[i] = match(member, '\n([^\n]*)$') or ''
      fields[2 + i] = 'r' .. requests[i]
    end
    local records, all = call(unpack(fields)), {}
    for i, request in ipairs(requests) do
      all[#all + 1] = read(request, records[i])
    end
    return all
  end

  -- Where few wait, all of them are read at once, which takes less time than to ask
  -- for each. Where more do, each is asked for, and fewer edges can be followed in
  -- the time that a script may take.
  local few, slowly = 500, 200
  local queues, byOwner, headers
  -- An owner's locks are met on the way to what it waits for. In a walk that many pages
  -- of a hundred are read besides the first of each owner; cut says that one was not.
  local pages, more, cut = 30, 0, false

  -- prepare reads them where they are few, and reports whether it has. Nothing that
  -- is read may change from then on.
  function W.prepare(resource)
    if queues or S.waiters > few then return queues ~= nil end
    queues, byOwner, headers = {}, {}, {}
    local fields, resources = { 'HMGET', KEYS[1] }, {}
    local function add(name)
      if queues[name] then return end
      queues[name] = {}
      resources[#resources + 1] = name
      fields[#fields + 1] = 'l' .. name
    end
    add(resource)
    for _, w in ipairs(readAll(call('ZRANGEBYLEX', KEYS[4], '[q', '(r'))) do
      add(w.resource)
      local queue, own = queues[w.resource], byOwner[w.owner]
      queue[#queue + 1], w.at = w, #queue + 1
      if not own then
        own = {}
        byOwner[w.owner] = own
      end
      own[#own + 1] = w
    end
    for i, header in ipairs(call(unpack(fields))) do headers[resources[i]] = header end
    return true
  end

  -- holderOf returns who holds a resource; nil for nobody, and for who can't be read.
  -- Who has it reserved takes it back without asking: with reserved that counts.
  local function holderOf(resource, reserved)
    local header = headers and headers[resource]
    if header == nil then header = call('HGET', KEYS[1], 'l' .. resource) end
    if header then
      local expires, owner = match(header, '^%d+\n%d+\n(%d+)\n[-mcpMC]\n%-?%d+\n([^\n]+)\n')
      if expires and (expires == '0' or expires + 0 > S.now) then return owner end
      return nil
    end
    return reserved and S.kept > 0 and S.runs().keptFor(resource) or nil
  end

  -- readWaiters reads up to limit of an owner's waiters, those for one resource in
  -- the order of its queue.
  local function readWaiters(owner, limit)
    local entry, found = 'o' .. ownerEntry(owner, ''), {}
    local low = '[' .. entry
    repeat
      local members = call('ZRANGEBYLEX', KEYS[4], low, '(' .. entry .. '\255', 'LIMIT', '0', '100')
      low = '(' .. (members[#members] or '')
      for _, w in ipairs(readAll(members)) do found[#found + 1] = w end
      local ended = #members < 100 or #found >= limit
      if not ended then
        cut = more >= pages
        more = more + 1
      end
    until ended or cut
    if #found < 2 then return found end
    local groups, count = {}, 0
    for _, w in ipairs(found) do
      if not groups[w.resource] then
        count = count + 1
        groups[w.resource] = count
      end
    end
    table.sort(found, function(a, b)
      if a.resource ~= b.resource then return groups[a.resource] < groups[b.resource] end
      return a.rank < b.rank
    end)
    return found
  end

  -- waitersOf is readWaiters, with the pending one, which is not in its queue yet.
  local function waitersOf(owner, limit, pending)
    local own, found = pending and pending.owner == owner and pending, {}
    for _, w in ipairs(byOwner and (byOwner[owner] or {}) or readWaiters(owner, limit)) do
      if own and (w.resource == own.resource and own.rank < w.rank or w.resource ~= own.resource and own.resource < w.resource) then
        found[#found + 1], own = own, nil
      end
      if #found < (own and limit - 1 or limit) then found[#found + 1] = w end
    end
    if own then found[#found + 1] = own end
    return found
  end

  -- eachAhead calls visit for those before a waiter in its queue, the nearest first,
  -- until it answers true. The pending one comes between those of the queue.
  local function eachAhead(w, pending, visit)
    local own = pending and pending ~= w and pending.resource == w.resource and pending.rank < w.rank and pending
    local function meet(x)
      if own and own.rank > x.rank then
        if visit(own) then return true end
        own = nil
      end
      return visit(x)
    end
    if queues then
      local queue, at = queues[w.resource], w.at
      if not at then -- one that was not read with the others
        at = #queue + 1
        while at > 1 and queue[at - 1].rank >= w.rank do at = at - 1 end
      end
      for i = at - 1, 1, -1 do
        if meet(queue[i]) then return end
      end
    else
      local low, size = '[q' .. w.resource .. '\n', 10
      local high = '(q' .. w.resource .. '\n' .. w.rank .. w.process .. '\n' .. w.request
      repeat
        local members = call('ZRANGE', KEYS[4], high, low, 'BYLEX', 'REV', 'LIMIT', '0', int(size))
        for _, x in ipairs(readAll(members)) do
          if meet(x) then return end
        end
        local ended = #members < size
        high, size = '(' .. (members[#members] or ''), 100
      until ended
    end
    if own then visit(own) end
  end

  -- drawn is the text of a picture, of which walk has noted the parts.
  local function drawn(from, notes, pending)
    local known, parts = {}, {}
    local function waiter(w)
      if known[w.request] then return end
      known[w.request] = true
      parts[#parts + 1] = 'w' .. w.request .. '\n' .. w.resource .. '\n' .. w.owner .. '\n' .. w.priority .. '\n' ..
        (w == pending and '' or w.enqueued)
    end
    waiter(from)
    for i = 1, #notes, 3 do
      local kind, a, b = notes[i], notes[i + 1], notes[i + 2]
      if kind == 'h' then
        parts[#parts + 1] = 'h' .. a .. '\n' .. (b or '')
      elseif kind == 'a' then
        if b then waiter(b) end
        parts[#parts + 1] = 'a' .. a.request .. '\n' .. (b and b.request or '')
      else
        local requests = { 'o' .. a }
        for k, w in ipairs(b) do
          waiter(w)
          requests[k + 1] = w.request
        end
        parts[#parts + 1] = table.concat(requests, '\n')
      end
    end
    return table.concat(parts, '\0')
  end

  -- walk follows who waits for whom from a waiter on, up to limit edges. It returns
  -- cycle, limit or none, and for a cycle, or when it is to draw, the picture, its
  -- digest and the limit that it has kept to. The picture has parts with lines:
  --   h RESOURCE HOLDER                                  empty for none
  --   w REQUEST RESOURCE OWNER PRIORITY MICROSECONDS     a waiter; no time for a
  --                                                      pending one
  --   o OWNER REQUEST ...                                what it waits for
  --   a REQUEST REQUEST                                  who is ahead, empty for none
  function W.walk(from, limit, pending, reserved, draws)
    local edges, full, closed = 0, false, false
    local reached, owners, lines, notes, n = { [from.owner] = true }, { from.owner }, {}, {}, 0
    more, cut = 0, false
    if not W.prepare(from.resource) then limit = math.min(limit, slowly) end

    local function note(kind, a, b)
      notes[n + 1], notes[n + 2], notes[n + 3] = kind, a, b or false
      n = n + 3
    end

    local function line(resource)
      local l = lines[resource]
      if not l then
        l = { holder = holderOf(resource, reserved), known = {} }
        lines[resource] = l
        note('h', resource, l.holder)
      end
      return l
    end

    -- reach follows an edge; false when that is one too many.
    local function reach(owner, other)
      if edges >= limit then return false end
      edges = edges + 1
      if other == from.owner and owner ~= other then closed = true end
      if not reached[other] then
        reached[other] = true
        owners[#owners + 1] = other
      end
      return true
    end

    local function placesOf(owner)
      local most = limit - edges + 1
      local all, places, seen = waitersOf(owner, most, pending), {}, {}
      full = full or cut or #all >= most
      if owner == from.owner then
        local present = false
        for _, w in ipairs(all) do present = present or w.resource == from.resource end
        if not present then places[1], seen[from.resource] = from, true end
      end
      for _, w in ipairs(all) do
        if not seen[w.resource] then
          seen[w.resource] = true
          places[#places + 1] = w
        end
      end
      note('o', owner, all)
      return places
    end

    -- follow goes along the queue of a waiter to its front, or to where it was before.
    local function follow(w)
      local l = line(w.resource)
      if l.holder == w.owner or l.known[w.request] then return true end
      if w.at == 1 and (not pending or pending.resource ~= w.resource) then -- it is the first
        l.known[w.request] = true
        note('a', w)
        return true
      end
      local chain, at, within, ended = { w }, w, true, true
      eachAhead(w, pending, function(x)
        note('a', at, x)
        within = reach(w.owner, x.owner)
        ended = within and not l.known[x.request]
        if not ended then return true end
        chain[#chain + 1], at = x, x
      end)
      if not within then return false end
      if ended then note('a', at) end
      for _, x in ipairs(chain) do l.known[x.request] = true end
      return true
    end

    local function run()
      local next = 1
      while owners[next] do
        local owner = owners[next]
        next = next + 1
        local places = placesOf(owner)
        for _, w in ipairs(places) do
          local l = line(w.resource)
          if l.holder and l.holder ~= owner and not reach(owner, l.holder) then return true end
        end
        for _, w in ipairs(places) do
          if not follow(w) then return true end
        end
      end
      return false
    end

    full = run() or full
    local outcome = closed and 'cycle' or full and 'limit' or 'none'
    if not closed and not draws then return outcome end
    local text = drawn(from, notes, pending)
    return outcome, text, redis.sha1hex(text), int(limit)
  end

  -- walkFrom is walk for one of a set's waiters, which are not in the queues yet. Where
  -- many wait it only looks whether the owner can be waited for.
  function W.walkFrom(from, members, limit)
    if not W.prepare(from.resource) then
      -- It counts as one that can where it has too much for a look.
      local held, more = heldBy(ownerEntry(from.owner, ''), 100)
      return (#held > 0 or more) and 'limit' or 'none'
    end
    local own = byOwner[from.owner] or {}
    byOwner[from.owner] = own
    for _, w in ipairs(members) do
      local queue = queues[w.resource] or {}
      queues[w.resource] = queue
      local at, k = #queue + 1, #own + 1
      while at > 1 and queue[at - 1].rank > w.rank do at = at - 1 end
      table.insert(queue, at, w)
      for i = at, #queue do queue[i].at = i end
      while k > 1 and (own[k - 1].resource > w.resource or own[k - 1].resource == w.resource and own[k - 1].rank > w.rank) do k = k - 1 end
      table.insert(own, k, w)
    end
    return W.walk(from, limit, nil, true)
  end

  -- waitsFor returns an owner's waiters for a resource.
  local function waitsFor(owner, resource)
    if byOwner then
      local own = {}
      for _, w in ipairs(byOwner[owner] or {}) do
        if w.resource == resource then own[#own + 1] = w end
      end
      return own
    end
    local prefix = 'o' .. ownerEntry(owner, resource) .. '\n'
    return readAll(call('ZRANGEBYLEX', KEYS[4], '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', '0', '100'))
  end

  -- confirms reports whether an owner waits for another one by a request.
  function W.confirms(owner, resource, request, other)
    local first
    for _, w in ipairs(waitsFor(owner, resource)) do
      if not first or w.rank < first.rank then first = w end
    end
    -- It can have left, or an earlier one of its owner's is served.
    if not first or first.request ~= request then return false end
    local holder = holderOf(resource, false)
    if holder == owner or holder == other then return holder == other end
    for _, w in ipairs(waitsFor(other, resource)) do
      if w.rank < first.rank then return true end
    end
    return false
  end

  -- record logs a deadlock, which is its reason. It is about a waiter.
  function W.record(w, actor, cause, deadlock)
    prepare(false, false)
    append('deadlock', w.resource, actor, cause, w.request, deadlock, { owner = w.owner, token = '0', expires = '0' }, nil)
  end

  -- moveTogether puts waiters to the front of their queues, after the record that
  -- says so; one goes before those that were moved before it.
  function W.moveTogether(requests)
    for i, request in ipairs(requests) do
      local w = Q.load(request)
      if w then Q.toFront(w, #requests - i) end
    end
  end

  return W
end
