-- What holders leave: reservations, and what keeps a pull request that was closed
-- from taking locks. It follows the prelude and the queue. Its functions are made
-- when they are needed, as those of the queue.
--
-- KEYS  1 state  2 deadlines  4 queue, see the prelude
--
-- A reservation is a lock that was given back to be taken again while others wait:
-- the field k RESOURCE of the state, with the lines since and until, the lock's
-- header, and its details. The resource's deadline is when it ends, which comes
-- nearer once its owner asks for locks.
--
-- A lapse is a reservation that follows a lease which its holder has let end, for
-- UncleanReleaseDelay. Its header still has when the lease ended, where that of
-- others has 0. Nothing but a forced release or its owner ends it earlier, so no
-- member of the queue leads to it, and it stands while the queue is off.
--
-- The queue has further members:
--   s ENTRY                what a pull request has reserved; ENTRY is that of
--                          ownerEntry
--   t OWNER \n SINCE HEAD  tombstone of a pull request, with its head commit; "+"
--                          follows SINCE while its locks are not all released
--   u NUMBER \n SINCE      all locks of pull requests with the number were released
-- The counters kept and gone count reservations and tombstones.

S.runs = function()
  if S.run then return S.run end
  local R = {}
  S.run = R

  -- read returns a reservation as the lock that it was, and the text of one that
  -- can't be read: it protects a run, and nobody's lock.
  local function read(resource)
    local text = call('HGET', KEYS[1], 'k' .. resource)
    local l = text and cut(text, 10)
    local r = l and tonumber(l[1]) and tonumber(l[2]) and parse(table.concat(l, '\n', 3, 10), l[11])
    if r then r.latest, r.lapsed = l[2] + 0, r.expires ~= '0' end
    return r, text
  end

  -- endOf returns when a reservation ends.
  local function endOf(resource, r)
    if r.lapsed then return r.latest end
    return math.min(r.latest, tonumber(call('ZSCORE', KEYS[2], resource) or r.latest))
  end

  -- drop removes the reservation of a resource, if there is one, and returns it.
  function R.drop(resource)
    local r, text = read(resource)
    if not text then return nil end
    S.kept, S.changed = math.max(S.kept - 1, 0), true
    call('HDEL', KEYS[1], 'k' .. resource)
    call('ZREM', KEYS[2], resource)
    if r and not r.lapsed then call('ZREM', KEYS[4], 's' .. ownerEntry(r.owner, resource)) end
    return r
  end

  -- stop ends a reservation that its owner has not taken back.
  function R.stop(resource, r, actor, cause, reason)
    prepare(true, true)
    append('reservation_ended', resource, actor, cause, r.request, reason, { owner = r.owner, token = '0', expires = '0' }, nil)
    R.drop(resource)
  end

  -- stands reports whether a reservation is not over.
  local function stands(resource, r)
    return endOf(resource, r) > S.now and (r.lapsed or times().claim > 0)
  end

  -- reservation returns that of a resource which is free, nil for none. One that is
  -- over ends, and so does any but a lapse while the queue is off. That of a lapse
  -- looks as a lock does which ends when it does.
  function R.reservation(resource)
    local r = read(resource)
    if not r then return nil end
    if stands(resource, r) then
      r.ends = int(endOf(resource, r))
      if r.lapsed then
        r.expires = r.ends
        headerOf(r)
      end
      return r
    end
    R.stop(resource, r, 'system:store', 'expired', '')
    return nil
  end

  -- keptFor returns for whom a free resource is reserved, nil for nobody, and changes
  -- nothing.
  function R.keptFor(resource)
    local r = read(resource)
    return r and stands(resource, r) and r.owner or nil
  end

  -- keep writes the reservation that follows a lock which had ended at expires, '0'
  -- when it was given back.
  local function keep(resource, r, expires, ends)
    local was = headerOf({
      token = r.token, acquired = r.acquired, expires = expires, flag = '-', priority = r.priority, owner = r.owner, request = r.request,
      note = r.note,
    })
    S.kept = S.kept + 1
    store('k' .. resource, S.text .. '\n' .. ends .. '\n' .. was .. '\n' .. r.details)
    call('ZADD', KEYS[2], ends, resource)
  end

  -- lapse ends a lease that its holder has let end, and keeps the resource from
  -- others for the rest of UncleanReleaseDelay.
  function R.lapse(resource, r, mirror, stock)
    finishLock(resource, r, 'timeout', 'system:store', 'expired', 'closed to other owners for unclean_release_delay', mirror, stock)
    keep(resource, r, r.expires, int(r.expires + times().delay))
  end

  -- reserve gives a lock back that its pull request may want again.
  function R.reserve(resource, r, actor, cause, reason, mirror, stock)
    call('ZCARD', KEYS[4])
    local ends = int(S.now + times().window)
    finishLock(resource, r, 'reserved', actor, cause, reason, mirror, stock)
    keep(resource, r, '0', ends)
    call('ZADD', KEYS[4], '0', 's' .. ownerEntry(r.owner, resource))
  end

  -- reservedBy returns up to limit members for what owners whose entries begin with
  -- a text have reserved, after one of them.
  function R.reservedBy(text, limit, after)
    if S.kept == 0 then return {} end
    local low = after and '(' .. after or '[s' .. text
    return call('ZRANGEBYLEX', KEYS[4], low, '[s' .. text .. '\255', 'LIMIT', '0', int(limit))
  end

  -- giveUp ends the reservation to which a member of the queue leads, and has what it
  -- was on handed over. One that leads to none goes.
  function R.giveUp(member, actor, cause, mirror, old)
    local at = find(member, '\n', 1, true)
    local resource = at and sub(member, at + 1) or ''
    local r = read(resource)
    if r and 's' .. ownerEntry(r.owner, resource) == member then
      R.stop(resource, r, actor, cause, '')
      leaveFree(resource, mirror, old)
      return r.owner
    end
    call('ZREM', KEYS[4], member)
    return nil
  end

  -- asked notes that a pull request with reservations asks for a lock: they end
  -- 30 seconds after it has asked for the last time. What is over by now stays so.
  -- It is no change, and a server without memory may refuse it.
  local function asked(owner)
    local text, after = ownerEntry(owner, ''), nil
    repeat
      local members, deadlines = R.reservedBy(text, 500, after), { 'ZADD', KEYS[2] }
      for _, member in ipairs(members) do
        local resource = sub(member, #text + 2)
        local r = read(resource)
        if r and endOf(resource, r) > S.now then
          deadlines[#deadlines + 1] = int(math.min(r.latest, S.now + 30000000))
          deadlines[#deadlines + 1] = resource
        end
      end
      if #deadlines > 2 then redis.pcall(unpack(deadlines)) end
      after = members[#members]
    until #members < 500
  end

  -- tombstone returns the member of the queue that is a pull request's tombstone,
  -- since when it is there, the head commit, and "+" while its locks are not all
  -- released.
  local function tombstone(owner)
    local prefix = 't' .. owner .. '\n'
    local member = call('ZRANGEBYLEX', KEYS[4], '[' .. prefix, '[' .. prefix .. '\255', 'LIMIT', '0', '1')[1]
    if not member then return nil end
    local since, more, head = string.match(sub(member, #prefix + 1), '^(%d+)(%+?) (.*)$')
    return member, since and since + 0, head, more
  end

  -- removeMember removes a tombstone.
  function R.removeMember(member)
    S.gone, S.changed = math.max(S.gone - 1, 0), true
    call('ZREM', KEYS[4], member)
  end

  -- removeTombstone removes that of a pull request, if there is one.
  function R.removeTombstone(owner)
    local member = S.gone > 0 and tombstone(owner)
    if member then R.removeMember(member) end
  end

  -- refuses reports whether the pull request that asks was closed while the run
  -- goes on that asks. Any other request is a sign of life. A damage keeps nobody
  -- from his locks.
  function R.refuses(owner, head)
    if sub(owner, 1, 3) ~= 'pr:' then return false end
    local member, since, was
    if S.gone > 0 and times().claim > 0 then member, since, was = tombstone(owner) end
    if since then
      if S.now - since < times().tombstone and (head == '' or head == was) then return true end
      R.removeMember(member)
    end
    if S.kept > 0 then asked(owner) end
    return false
  end

  -- enter has the repository exist.
  local function enter()
    prepare(true, true)
    -- Works while the server has no memory left, see append.
    call('HDEL', KEYS[1], '')
    if not S.known then S.changed, S.logged = true, true end
  end

  -- isReleasing reports whether a pull request has a tombstone, and not all of its locks
  -- are released. Whatever it has it had before.
  function R.isReleasing(owner)
    return S.gone > 0 and select(4, tombstone(owner)) == '+'
  end

  -- bury leaves a tombstone, with more set that of one whose locks are not all released.
  function R.bury(owner, head, more)
    enter()
    R.removeTombstone(owner)
    S.gone = S.gone + 1
    call('ZADD', KEYS[4], '0', 't' .. owner .. '\n' .. S.text .. (more and '+ ' or ' ') .. head)
    -- Nobody looks for what is not counted, and what follows can fail.
    store()
  end

  -- marks returns the marks that all locks of pull requests with a number were
  -- released.
  local function marks(number)
    local prefix = 'u' .. number .. '\n'
    return call('ZRANGEBYLEX', KEYS[4], '[' .. prefix, '[' .. prefix .. '\255')
  end

  -- mark leaves such a mark.
  function R.mark(number)
    enter()
    R.unmark(number)
    call('ZADD', KEYS[4], '0', 'u' .. number .. '\n' .. S.text)
  end

  function R.unmark(number)
    for _, member in ipairs(marks(number)) do call('ZREM', KEYS[4], member) end
  end

  -- isMarked reports whether there is one of the last minute.
  function R.isMarked(number)
    for _, member in ipairs(marks(number)) do
      local since = tonumber(string.match(member, '\n(%d+)$'))
      if since and S.now - since < 60000000 then return true end
    end
    return false
  end

  -- sweep removes what is over from the next members of the queue, up to limit, and
  -- returns after which to go on, '' at the end.
  function R.sweep(limit, after)
    local late = S.waiters > 0 and times().late > 0
    local low = after ~= '' and '(' .. after or late and '[q' or '[t'
    local high = S.sets > 0 and '(x' or '(v'
    local members = call('ZRANGEBYLEX', KEYS[4], low, high, 'LIMIT', '0', int(limit))
    for _, member in ipairs(members) do
      local letter = sub(member, 1, 1)
      if letter == 'q' then
        S.queue().dequeueLate(member)
      elseif letter == 't' then
        local since = tonumber(string.match(member, '^[^\n]*\n(%d+)%+? '))
        if since and S.now - since >= times().tombstone then R.removeMember(member) end
      elseif letter == 'u' then
        local since = tonumber(string.match(member, '\n(%d+)$'))
        if since and S.now - since >= 60000000 then call('ZREM', KEYS[4], member) end
      elseif letter == 'w' then
        S.whole().sweep(member)
      end
    end
    return #members == limit and members[#members] or ''
  end

  return R
end
