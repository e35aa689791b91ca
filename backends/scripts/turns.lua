-- What waiters are given: hand-overs and claims, and that nobody waits behind himself. It
-- follows the queue. Its functions are made when they are needed, as those of the queue.
--
-- KEYS  see the prelude

S.turns = function()
  if S.turn then return S.turn end
  local Q, T = S.queue(), {}
  S.turn = T

  -- standIn returns the call that waits for what a detached waiter of the same owner
  -- is given: it needs no claim.
  local function standIn(w)
    if w.process ~= '' then return w end
    return Q.ownWaiter(w.owner, w.resource, function(own)
      return own.process ~= '' and not own.set and Q.isAlive(own.process)
    end) or w
  end

  -- dequeueGranted takes out the waiter of a request that has got a lock otherwise than
  -- by its turn.
  local function dequeueGranted(w, r)
    w.granted = true
    Q.dequeue(w, 'cancelled', r.owner, 'hand_over', 'own', r.header, r.details)
  end

  -- claim makes an unclaimed lock the one of its owner's request, and returns it.
  function T.claim(resource, r, new, mirror)
    prepare(true, true)
    local l = {
      token = r.token, acquired = r.acquired, expires = new.expires, flag = r.flag, priority = r.priority, owner = new.owner,
      request = new.request, note = new.note, details = new.details,
    }
    local waiter = Q.load(l.request)
    append('claimed', resource, l.owner, 'request', l.request, '', r, l)
    if r.request ~= '' and call('HGET', KEYS[1], 'r' .. r.request) == r.token then call('HDEL', KEYS[1], 'r' .. r.request) end
    store('l' .. resource, headerOf(l), 'd' .. resource, l.details, 'r' .. l.request, l.token)
    call('ZREM', KEYS[2], resource)
    if l.expires ~= '0' then call('ZADD', KEYS[2], l.expires, resource) end
    unlead(resource, r)
    call('ZADD', KEYS[4], '0', memberOf(l.owner, resource, l.request))
    if l.flag == 'm' then call('SET', mirror, formOf(l)) end
    if waiter then dequeueGranted(waiter, l) end
    return l
  end

  -- dequeueOwn takes out what a holder has in the queue, up to 100 waiters, and reports
  -- whether there may be more: nobody waits behind himself. Those go when their process
  -- looks after them. With a waiter, that of the request which has got the lock, it is
  -- the first to go: nothing leads to its record any more.
  function T.dequeueOwn(r, resource, waiter)
    if waiter then dequeueGranted(waiter, r) end
    local own = {}
    Q.ownWaiter(r.owner, resource, function(w)
      own[#own + 1] = w
      return #own == 100
    end)
    for _, w in ipairs(own) do
      Q.dequeue(w, 'cancelled', r.owner, 'hand_over', 'own', r.header, r.details)
    end
    return #own == 100
  end

  -- handOver gives a free resource to its next waiter, and returns the lock; nil
  -- when there was none.
  function T.handOver(resource, mirror)
    local next, members, closed = nil, nil, {}
    local function refuses(w)
      if not isClosing(w.owner) then return false end
      closed[#closed + 1] = w
      return true
    end
    if S.sets > 0 then
      next, members = S.whole().next(resource, Q.each, refuses)
    else
      Q.each(resource, function(w)
        if refuses(w) then return true end
        next = w
        return false
      end)
    end
    for _, w in ipairs(closed) do
      Q.dequeue(w, 'cancelled', 'system:store', 'pull', 'closing')
    end
    if not next then return nil end
    if members then return S.whole().grant(members, resource) end
    next = standIn(next)
    local r = {
      flag = next.flag, owner = next.owner, priority = next.priority, acquired = S.text, request = next.request, note = next.note,
      expires = next.lease ~= '0' and int(S.now + next.lease) or '0', details = next.details,
    }
    if next.process == '' then r.pending, r.expires = true, int(S.now + times().claim) end
    grant(resource, r, 'granted', r.owner, 'hand_over', mirror)
    next.granted = true
    Q.remove(next)
    Q.tell(next, 'granted', r.header)
    T.dequeueOwn(r, resource)
    return r
  end

  return T
end
