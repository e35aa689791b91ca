package backends

import (
	"encoding/binary"
	"strconv"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// The layout of a store in bbolt. Stock Atlantis' buckets stay where and as
// they are; ours are beside them. One is the store's, and each repository has one, see
// [enhanced.RepositoryTag]:
//
//	enhanced
//	  "format"          the layout's version
//	  "clock"           the last time that was stored, microseconds
//	  "token"           the last fencing token
//	  "fleet"           the mode of all adapters, JSON of [enhanced.Fleet]
//	  "probe"           a try of HealthCheck that did not come to its end
//	TAG
//	  A                       bucket of log records, see archive
//	    a SEQUENCE              log record
//	  a SEQUENCE              one of the last log records
//	  c OWNER                 a pull request that is being closed
//	  d DEADLINE RESOURCE     when a lease ends
//	  f TIME TOKEN            how a lock ended, until that time, once the log
//	                            has lost its record
//	  i TOKEN                 lock ID -> resource
//	  k NUMBER                when all locks of a pull request were released
//	  l RESOURCE              lock record
//	  n OWNER                 when a pull request with reservations asked last
//	  q RESOURCE 00 RANK      waiter, see [queue.Order]
//	  s OWNER 00 RESOURCE     what is reserved for an owner
//	  t OWNER                 tombstone of a closed pull request
//	  u OWNER 00 RESOURCE 00 REQUEST  -> RANK of a waiter
//	  v RESOURCE              reservation
//	  w REQUEST               request ID -> RESOURCE 00 RANK of its waiter
//	  y "aging"               PriorityAgingInterval that the ranks are by
//	  y "name"|"checkpoint"
//	enhanced-spare      pages that the file has got in advance, while it gets them
//
// A repository is one B+tree with a letter for each range, not a bucket for
// each: what one step changes then lies on few pages. Numbers are big-endian,
// so that ranges are in numeric order. The log is first: what is appended to it
// lies beside what else a step changes, mostly on one page.
const (
	rangeLog       = 'a'
	rangeClosing   = 'c'
	rangeDeadline  = 'd'
	rangeForget    = 'f'
	rangeID        = 'i'
	rangeReleased  = 'k'
	rangeLock      = 'l'
	rangeLastTry   = 'n'
	rangeQueue     = 'q'
	rangeReserves  = 's'
	rangeTombstone = 't'
	rangeWaits     = 'u'
	rangeReserved  = 'v'
	rangeWaiter    = 'w'

	// formatVersion is the only layout this code writes.
	formatVersion = "3"
	// The formats before are converted when a backend opens the file, see convert.
	firstFormat, secondFormat = "1", "2"

	// tagLength is that of [enhanced.RepositoryTag].
	tagLength = 32

	// Stock Atlantis' buckets.
	legacyLocksBucket    = "runLocks"
	legacyPullsBucket    = "pulls"
	legacyCommandsBucket = "globalLocks"
)

// Functions instead of variables: a key that is shared could be changed.
func rootBucket() []byte { return []byte("enhanced") }

// isTag reports whether a bucket of the file has the name of a repository's.
func isTag(name []byte) bool {
	if len(name) != tagLength {
		return false
	}
	for _, c := range name {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func spareBucket() []byte   { return []byte("enhanced-spare") }
func formatKey() []byte     { return []byte("format") }
func clockKey() []byte      { return []byte("clock") }
func nameKey() []byte       { return []byte("yname") }
func tokenKey() []byte      { return []byte("token") }
func fleetKey() []byte      { return []byte("fleet") }
func probeKey() []byte      { return []byte("probe") }
func checkpointKey() []byte { return []byte("ycheckpoint") }
func agingKey() []byte      { return []byte("yaging") }

// present is the value of keys that say all themselves. It is not empty, since
// bbolt answers nil both for an empty value of the same transaction and for none.
func present() []byte { return []byte{1} }

func legacyLocks() []byte { return []byte(legacyLocksBucket) }

func lockKey(resourceKey string) []byte {
	return append([]byte{rangeLock}, resourceKey...)
}

func idKey(token int64) []byte {
	return appendNumber([]byte{rangeID}, token)
}

func deadlineKey(at int64, resourceKey string) []byte {
	return append(appendNumber([]byte{rangeDeadline}, at), resourceKey...)
}

// splitDeadlineKey reverses deadlineKey.
func splitDeadlineKey(key []byte) (at int64, resourceKey string, ok bool) {
	if len(key) < 9 || key[0] != rangeDeadline {
		return 0, "", false
	}
	return number(key[1:9]), string(key[9:]), true
}

// forgetKey ends with the token of the lock that is to be forgotten.
func forgetKey(at, token int64) []byte {
	return appendNumber(appendNumber([]byte{rangeForget}, at), token)
}

func splitForgetKey(key []byte) (at, token int64, ok bool) {
	if len(key) != 17 || key[0] != rangeForget {
		return 0, 0, false
	}
	return number(key[1:9]), number(key[9:]), true
}

func logKey(sequence uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{rangeLog}, sequence)
}

func closingKey(owner string) []byte {
	return append([]byte{rangeClosing}, owner...)
}

// ownerKey leads to what an owner has to do with a resource, with the letter of a
// range in the place of the first byte. It starts, for a pull request, with its
// number: stock's UnlockByPull knows no host. Its repository is the one that the key
// is in. The zero byte cannot occur in an owner, see enhanced.NormalizeRequest.
func ownerKey(owner enhanced.Owner, resourceKey string) []byte {
	if owner.Kind == enhanced.OwnerPull {
		return append(append(pullPrefix(owner.Number), owner.Host+"\x00"...), resourceKey...)
	}
	return append([]byte{'o'}, owner.String()+"\x00"+resourceKey...)
}

func pullPrefix(number int) []byte {
	return append(strconv.AppendInt([]byte{'o', 'p'}, int64(number), 10), '/')
}

func appendNumber(key []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(key, uint64(n)) //nolint:gosec // tokens and times are positive
}

// number reads what appendNumber wrote; anything else reads as 0.
func number(value []byte) int64 {
	if len(value) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(value)) //nolint:gosec // written by appendNumber
}
