-- The common case of acquire.lua, which follows with the prelude: nothing is
-- there and nothing is due. It is decided before the prelude's functions are
-- made, which takes longer than all of this. Whatever is not as it commonly is
-- goes on to the general case, with nothing written.
--
-- KEYS, ARGV  see acquire.lua
--
-- Answers  granted TOKEN ACQUIRED EXPIRES
do
  local call, resource, owner, request, mirror = redis.call, ARGV[7], ARGV[8], ARGV[11], KEYS[6]
  local clock = call('TIME')
  local now = clock[1] .. string.sub('000000', #clock[2] + 1) .. clock[2]
  local v = call('HMGET', KEYS[1], 'token', 'sequence', 'locks', 'trimmed', 'wake', 'closing', 'l' .. resource, 'r' .. request)
  local sequence, locks, trimmed, limit = tonumber(v[2] or ''), tonumber(v[3] or ''), tonumber(v[4] or 0), tonumber(ARGV[2])
  -- Digits of one length compare as numbers do.
  local common = sequence and locks and trimmed and v[1] and #v[1] == #now and v[1] < now and not (v[6] or v[7] or v[8])
  -- Every 64th goes on, and tidies up.
  common = common and sequence % 64 ~= 63 and limit >= 1000 and sequence - trimmed - limit < 64
  if common and (not mirror or mirror == KEYS[1] or call('EXISTS', mirror, KEYS[7]) == 0) then
    local note, expires, entry = ARGV[12], '0', owner
    if ARGV[10] ~= '0' then expires = string.format('%d', now + ARGV[10]) end
    if string.sub(owner, 1, 3) == 'pr:' then
      local host = string.find(owner, '/', 4, true)
      entry = 'p' .. string.sub(owner, string.find(owner, '/', host + 1, true) + 1) .. '/' .. string.sub(owner, 4, host - 1)
    end
    entry = entry .. '\n' .. resource
    -- What is written first can fail, and is taken back.
    call('ZADD', KEYS[3], '0', entry)
    local lease = expires == '0' or redis.pcall('ZADD', KEYS[2], expires, resource)
    local id = string.format('%d', sequence + 1)
    if type(lease) ~= 'table' and type(redis.pcall('XADD', KEYS[5], id .. '-0', 'd', now .. '\nacquired\n' .. resource .. '\n' ..
        now .. '\n\nrequest\n' .. request .. '\n\n\n\n\n\n' .. owner .. '\n\n' .. expires .. '\n' .. note)) ~= 'table' then
      call('HSET', KEYS[1], 'sequence', id, 'token', now, 'locks', string.format('%d', locks + 1),
        'l' .. resource, now .. '\n' .. now .. '\n' .. expires .. '\n' .. ARGV[15] .. '\n' .. ARGV[9] .. '\n' .. owner .. '\n' .. request .. '\n' .. note,
        'd' .. resource, ARGV[13] ~= '' and ARGV[14] .. '\n' .. ARGV[13] or ARGV[14], 'i' .. now, resource, 'r' .. request, now)
      if ARGV[15] == 'm' then call('SET', mirror, ARGV[14]) end
      if v[5] and v[5] > now then redis.pcall(ARGV[4], ARGV[5], KEYS[1]) end
      return { 'granted', '', now, now, expires }
    end
    call('ZREM', KEYS[3], entry)
    if lease == 1 then call('ZREM', KEYS[2], resource) end
  end
end
