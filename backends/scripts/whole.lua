-- Sets that wait, see docs/adr/0020-sets-wait-whole.md. It follows the prelude, the
-- queue and what runs leave. Its functions are made when they are needed, as those of
-- the queue.
--
-- KEYS  see the prelude
--
-- A set has a waiter in the queue of each of its resources. In the line flag of those
-- there is more behind the flag, each part behind a tab: how many waiters the set has,
-- the request of its first one, by which it is known, stock's two keys of the
-- resource, empty where there are none, and, where the request was given a lock before
-- that nobody has claimed, the token of that. Any step can grant a set, and it can't know
-- the keys of all of its resources before; they need not be declared where there is
-- one server, and a cluster has none of stock's.
-- The queue has one more member for each of these waiters:
--   w RESOURCE \n MICROSECONDS SET \n REQUEST   in the order of the sets' age
-- The counter sets counts them.

S.whole = function()
  if S.wholes then return S.wholes end
  local Q, W, match = S.queue(), {}, string.match
  S.wholes = W

  -- markOf is the line flag of a set's waiter.
  function W.markOf(given, flag, size, set, mirror, old)
    return flag .. '\t' .. int(size) .. '\t' .. set .. '\t' .. (mirror or '') .. '\t' .. (old or '') .. (given and '\t' .. given or '')
  end

  -- keysOf returns stock's keys of a waiter's resource, nil for those that it does not
  -- have. They were among the keys of the step that had it wait.
  local function keysOf(w)
    return w.stock[1], w.stock[2]
  end

  local function ageOf(w)
    return 'w' .. w.resource .. '\n' .. w.enqueued .. ' ' .. w.set .. '\n' .. w.request
  end

  -- isOld reports whether what is free of a waiter's set is kept for it.
  local function isOld(w)
    return S.now - w.enqueued >= times().reserve
  end

  -- isMoved reports whether a rank is that of a waiter that was moved to the front.
  local function isMoved(rank)
    return sub(rank, 1, 1) == '0' and tonumber(sub(rank, 2, 17)) < 4503599627370496
  end

  -- bounds returns the bounds of what an owner waits for.
  local function bounds(owner)
    local entry = 'o' .. ownerEntry(owner, '')
    return '[' .. entry, '(' .. entry .. '\255', #entry
  end

  -- membersOf returns the waiters of a set, in the order of their resources.
  local function membersOf(w)
    local low, high = bounds(w.owner)
    local found = {}
    repeat
      local page = call('ZRANGEBYLEX', KEYS[4], low, high, 'LIMIT', '0', '500')
      local fields, requests = { 'HMGET', KEYS[1] }, {}
      for i, member in ipairs(page) do
        requests[i] = match(member, '\n([^\n]*)$')
        fields[2 + i] = 'r' .. requests[i]
      end
      local records = #page > 0 and call(unpack(fields)) or {}
      for i, request in ipairs(requests) do
        local m = records[i] and Q.read(request, records[i])
        if m and m.set == w.set then found[#found + 1] = m end
      end
      low = '(' .. (page[#page] or '')
    until #page < 500
    return found
  end
  W.membersOf = membersOf

  -- put has waiters of a set wait: their records, and what leads to them.
  function W.put(members)
    local fields, places, low, high = {}, { 'ZADD', KEYS[4] }, bounds(members[1].owner)
    local some = call('ZLEXCOUNT', KEYS[4], low, high) > 0
    for _, w in ipairs(members) do
      if some and Q.isWaiting(w.owner, w.resource) then S.twice = S.twice + 1 end
      fields[#fields + 1], fields[#fields + 2] = 'r' .. w.request, Q.recordOf(w)
      Q.put(w, places)
      places[#places + 1], places[#places + 2] = '0', ageOf(w)
    end
    S.waiters, S.sets = S.waiters + #members, S.sets + #members
    store(unpack(fields))
    call(unpack(places))
  end

  -- lockOf reports which lock a waiter's request was given before, if that is still known
  -- as that of the request: one that is held, and not claimed with another request, or
  -- one that has ended.
  local function lockOf(w)
    local ending = cut(call('HGET', KEYS[1], 'i' .. w.given) or '', 3)
    if ending then return ending[4] == w.request and 'ended' end
    local l = cut(call('HGET', KEYS[1], 'l' .. w.resource) or '', 7)
    return l and l[1] == w.given and l[7] == w.request and 'held'
  end

  -- remove takes waiters of a set out of the queues; those that are granted have tokens
  -- by now. What leads from the owner to a waiter stays where it leads to a lock.
  local function remove(members, granted)
    local fields, places, low = { 'HDEL', KEYS[1] }, { 'ZREM', KEYS[4] }, sub(bounds(members[1].owner), 2)
    for i, w in ipairs(members) do
      local n, its = #places, granted and 'held' or w.given and lockOf(w)
      if its and not granted then
        call('HSET', KEYS[1], 'r' .. w.request, w.given)
      elseif not granted then
        fields[#fields + 1] = 'r' .. w.request
      end
      places[n + 1], places[n + 2] = Q.place(w), ageOf(w)
      if its ~= 'held' then places[n + 3] = low .. w.resource .. '\n' .. w.request end
    end
    S.waiters, S.sets = math.max(S.waiters - #members, 0), math.max(S.sets - #members, 0)
    if #fields > 2 then call(unpack(fields)) end
    call(unpack(places))
    for _, w in ipairs(members) do Q.discount(w) end
    store()
  end

  -- adopt is that of the queue for a set.
  function W.adopt(members, process, time)
    if members[1].process ~= process then Q.tell(members[1], 'elsewhere') end
    for _, w in ipairs(members) do
      if w.process ~= process then Q.assign(w, process) end
    end
    Q.pulse(process, time)
  end

  -- leave has what is free of waiters that leave go on, at the end of the step.
  local function leave(members)
    S.unserved = S.unserved or {}
    for _, w in ipairs(members) do S.unserved[#S.unserved + 1] = w end
  end

  -- isWanted reports whether somebody may wait for a resource.
  local function isWanted(resource)
    return call('ZLEXCOUNT', KEYS[4], '[q' .. resource .. '\n', '(q' .. resource .. '\n:') > 0
  end

  -- dequeue takes a set out without locks, and tells it why.
  function W.dequeue(w, event, actor, cause, ...)
    local members = membersOf(w)
    if #members == 0 then return end
    S.left = (S.left or 0) + #members
    prepare(true, false)
    local reason = event == 'deadlock' and select(2, ...) or ''
    for _, m in ipairs(members) do
      append(event, m.resource, actor, cause, m.request, reason, { owner = m.owner, token = '0', expires = '0' }, nil)
    end
    remove(members)
    for _, m in ipairs(S.waiters > 0 and isOld(w) and members or {}) do
      if isWanted(m.resource) then leave({ m }) end
    end
    if ... then Q.tell(w, ...) end
  end

  -- isEnough reports whether a step has taken out so many that it leaves those that have
  -- died besides to others: they are passed over.
  function W.isEnough()
    return (S.left or 0) >= 500
  end

  -- dequeueDamaged takes out what is left of a set whose other waiters are lost.
  function W.dequeueDamaged(w)
    W.dequeue(w, 'cancelled', 'system:store', 'repair', 'elsewhere')
  end

  -- serve settles what a step has left for its end.
  function W.serve()
    while S.unserved do
      local list = S.unserved
      S.unserved = nil
      for _, w in ipairs(list) do
        local parts = call('HMGET', KEYS[1], 'l' .. w.resource, 'd' .. w.resource)
        settle(w.resource, parts[1], parts[2], keysOf(w))
      end
    end
  end

  -- keeperOf returns the waiter of the set that a resource is kept for when it is
  -- free, nil for none: the oldest one that has waited for SetReserveAfter.
  local function keeperOf(resource)
    local low, high, size = '[w' .. resource .. '\n', '(w' .. resource .. '\n:', '1'
    repeat
      local page = call('ZRANGEBYLEX', KEYS[4], low, high, 'LIMIT', '0', size)
      for _, member in ipairs(page) do
        local enqueued, request = match(member, '^(%d+) [^\n]*\n(.*)$', #resource + 3)
        local w = request and Q.load(request)
        if enqueued and S.now - enqueued < times().reserve then return nil end
        if w and w.set and Q.isAlive(w.process) then return w end
      end
      low, size = '(' .. (page[#page] or ''), '10'
    until #page == 0
    return nil
  end

  -- keptFor returns what a free resource is kept for as a lock on it would be; nil
  -- when it is kept for nobody.
  function W.keptFor(resource)
    local w = keeperOf(resource)
    if not w then return nil end
    local r = {
      token = w.enqueued, acquired = w.enqueued, expires = '0', flag = '-', priority = w.priority, owner = w.owner, request = w.request,
      note = w.note, details = w.details,
    }
    headerOf(r)
    return r
  end

  -- isEnded reports whether the lock with a header has a lease that is over.
  local function isEnded(header)
    local expires = match(header, '^%d+\n%d+\n(%d+)\n')
    return expires and expires ~= '0' and expires + 0 <= S.now
  end

  -- isHeld looks whether one of an owner's resources is held, where these are those
  -- of one set, and it holds nothing: that takes less time than to read the waiters.
  local function isHeld(w)
    local low, high, at = bounds(w.owner)
    if call('ZLEXCOUNT', KEYS[4], low, high) ~= w.size then return false end
    repeat
      local page = call('ZRANGEBYLEX', KEYS[4], low, high, 'LIMIT', '0', '50')
      local fields = { 'HMGET', KEYS[1] }
      for i, member in ipairs(page) do
        fields[2 + i] = 'l' .. sub(member, at + 1, find(member, '\n', at + 1, true) - 1)
      end
      for _, header in ipairs(#page > 0 and call(unpack(fields)) or {}) do
        if header and not isEnded(header) then return true end
      end
      low = '(' .. (page[#page] or '')
    until #page < 50
    return false
  end

  -- ready returns the waiters of a set that can be granted, else nil: each of its
  -- resources is free, or reserved for its owner, and is kept for no older set. What
  -- is due on one of them is done at the end of the step, and looks at the set again.
  local function ready(w)
    if isHeld(w) then return nil end
    local members, fields, stock = membersOf(w), { 'HMGET', KEYS[1] }, { 'EXISTS' }
    if #members ~= w.size then
      W.dequeueDamaged(w)
      return nil
    end
    for i, m in ipairs(members) do
      fields[2 + i] = 'l' .. m.resource
      stock[#stock + 1] = m.stock[1]
      stock[#stock + 1] = m.stock[2]
    end
    for i, header in ipairs(call(unpack(fields))) do
      if header then
        if isEnded(header) then leave({ members[i] }) end
        return nil
      end
    end
    if #stock > 1 and call(unpack(stock)) > 0 then return nil end
    for _, m in ipairs(S.kept > 0 and members or {}) do
      local kept = S.runs().reservation(m.resource)
      if kept and not isOwner(kept.owner, w.owner) then return nil end
    end
    for _, m in ipairs(S.sets > w.size and members or {}) do
      local keeper = keeperOf(m.resource)
      if keeper and keeper.set ~= w.set then return nil end
    end
    return members
  end
  W.ready = ready

  -- sweep takes out the set to which a member of the queue leads, if it has died.
  function W.sweep(member)
    local w = Q.load(match(member, '\n([^\n]*)$'))
    if w and w.set and not Q.isAlive(w.process) and not W.isEnough() then Q.dequeueDead(w) end
  end

  -- take writes the locks of an owner on free resources, in few commands. Each item has the
  -- resource, stock's key, the lock without a token, and, where its request waits, that
  -- waiter, to take out afterwards.
  function W.take(items, event, cause)
    local states, entries, leases, mirrors = {}, { 'ZADD', KEYS[4] }, { 'ZADD', KEYS[2] }, { 'MSET' }
    local low = sub(bounds(items[1].lock.owner), 2)
    for _, item in ipairs(items) do
      local resource, r = item.resource, item.lock
      r.token = nextToken()
      append(event, resource, r.owner, cause, r.request, '', nil, r)
      local n = #states
      states[n + 1], states[n + 2] = 'l' .. resource, headerOf(r)
      states[n + 3], states[n + 4] = 'd' .. resource, r.details
      states[n + 5], states[n + 6] = 'i' .. r.token, resource
      states[n + 7], states[n + 8] = 'r' .. r.request, r.token
      entries[#entries + 1], entries[#entries + 2] = '0', low .. resource .. '\n' .. r.request
      if r.expires ~= '0' then leases[#leases + 1], leases[#leases + 2] = r.expires, resource end
      if r.flag == 'm' and item.mirror then mirrors[#mirrors + 1], mirrors[#mirrors + 2] = item.mirror, formOf(r) end
    end
    S.locks = S.locks + #items
    store(unpack(states))
    for _, item in ipairs(S.kept > 0 and items or {}) do S.runs().drop(item.resource) end
    call(unpack(entries))
    if #leases > 2 then call(unpack(leases)) end
    if #mirrors > 1 then call(unpack(mirrors)) end
  end

  -- dequeueOwn takes out what an owner waits for and has got: nobody waits behind
  -- himself.
  function W.dequeueOwn(items)
    if S.waiters == 0 or #items == 0 then return end
    local low, high, at = bounds(items[1].lock.owner)
    local count = call('ZLEXCOUNT', KEYS[4], low, high)
    local got, own, isAny = {}, {}, count ~= #items -- so many lead to these locks
    for _, item in ipairs(items) do
      got[item.resource], isAny = item.lock.request, isAny or item.waiter
      own[item.resource] = item.waiter or count > 5000 -- each is looked for then
    end
    if not isAny then return end
    for _, member in ipairs(count <= 5000 and call('ZRANGEBYLEX', KEYS[4], low, high) or {}) do
      local resource, request = match(member, '^([^\n]*)\n(.*)$', at + 1)
      own[resource or ''] = own[resource or ''] or request ~= got[resource]
    end
    for _, item in ipairs(items) do
      if own[item.resource] then S.turns().dequeueOwn(item.lock, item.resource, item.waiter) end
    end
  end

  -- grant gives a set its locks, and returns that on a resource.
  function W.grant(members, resource)
    prepare(false, true)
    local items, its = {}, nil
    for i, w in ipairs(members) do
      items[i] = {
        resource = w.resource, mirror = keysOf(w), lock = {
          flag = w.flag, owner = w.owner, priority = w.priority, acquired = S.text, request = w.request, note = w.note,
          expires = w.lease ~= '0' and int(S.now + w.lease) or '0', details = w.details,
        },
      }
      if w.resource == resource then its = items[i].lock end
    end
    W.take(items, 'granted', 'hand_over')
    remove(members, true)
    Q.tell(members[1], 'granted')
    W.dequeueOwn(items)
    return its
  end

  -- next returns the waiter that a free resource goes to, and, if that is of a set,
  -- all of them; nil for nobody. each calls for the waiters in their order.
  function W.next(resource, each, refuses)
    local keeper, next, members, tried = keeperOf(resource), nil, nil, false
    if keeper and refuses(keeper) then keeper = nil end
    each(resource, function(w)
      local moved = isMoved(w.rank)
      -- Behind those that were moved there is nobody but for whom it is kept.
      if keeper and not moved then return false end
      if refuses(w) or w.set and keeper and keeper.set ~= w.set then return true end
      if w.set then
        tried, members = keeper ~= nil, ready(w)
        next = members and w
      else
        next = w
      end
      return not next
    end)
    if keeper and not next and not tried then
      members = ready(keeper)
      next = members and keeper
    end
    return next, members
  end

  -- got returns what became of the requests of a set that does not wait: "has" with
  -- the parts of their locks, "ended" when one of these has, with two empty parts for
  -- it, or "gone". They come after their resources, in ARGV from a place on.
  function W.got(first)
    local fields, requests, locks, known = { 'HMGET', KEYS[1] }, { 'HMGET', KEYS[1] }, {}, false
    for i = first, #ARGV, 2 do
      fields[#fields + 1], fields[#fields + 2] = 'l' .. ARGV[i], 'd' .. ARGV[i]
      requests[#requests + 1] = 'r' .. ARGV[i + 1]
    end
    local parts, tokens, all = call(unpack(fields)), call(unpack(requests)), true
    for i, field in ipairs(tokens) do
      local token = tokenOf(field) or field and (Q.read('', field) or {}).given
      local header, details = parts[2 * i - 1], parts[2 * i]
      local is = token and header and details and sub(header, 1, #token + 1) == token .. '\n'
      known, all = known or token, all and is
      locks[2 * i - 1], locks[2 * i] = is and header or '', is and details or ''
    end
    if not known then return 'gone' end
    return all and 'has' or 'ended', unpack(locks)
  end

  return W
end
