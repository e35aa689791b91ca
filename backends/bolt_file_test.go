package backends_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/backends"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// pageDamage is a damage of a file, and what is to be said of it.
type pageDamage struct {
	plant func(p *pageFile)
	says  string
}

func pageDamages() map[string]pageDamage {
	branch := func(p *pageFile) int64 { return p.used(typeBranch, nil) }
	leaf := func(p *pageFile) int64 {
		return p.used(typeLeaf, func(page int64) bool { return p.get16(page, atCount) > 5 && p.get32(page, atContent) == 0 })
	}
	long := func(p *pageFile) int64 {
		return p.used(typeLeaf, func(page int64) bool { return p.get32(page, atOverflow) > 0 })
	}
	// middle returns a leaf that other leaves of its branch surround.
	middle := func(p *pageFile) int64 {
		up := p.used(typeBranch, func(page int64) bool { return p.get16(page, atCount) > 2 })
		page := p.get64(up, atContent+16+8)
		require.EqualValues(p.t, typeLeaf, p.get16(page, atType))
		return page
	}
	// key is where the key of a leaf's entry starts.
	key := func(p *pageFile, page, entry int64) int64 {
		at := atContent + 16*entry
		return at + p.get32(page, at+4)
	}
	// bucket returns a page whose first entry is a bucket, and where its value is.
	bucket := func(p *pageFile, small bool) (page, at int64) {
		page = p.used(typeLeaf, func(page int64) bool {
			at = atContent + p.get32(page, atContent+4) + p.get32(page, atContent+8)
			return p.get32(page, atContent) == 1 && (p.get64(page, at) == 0) == small
		})
		return page, at
	}
	return map[string]pageDamage{
		"free list of another type":    {func(p *pageFile) { p.put16(p.freeList(), atType, typeLeaf) }, "should be the list of free pages"},
		"free list of zeros":           {func(p *pageFile) { p.put(p.freeList(), 0, make([]byte, p.size)) }, "says that it is page 0"},
		"free list without end":        {func(p *pageFile) { p.put32(p.freeList(), atOverflow, 1<<32-1) }, "goes on over the 4294967295 pages behind it"},
		"free list too long":           {func(p *pageFile) { p.put16(p.freeList(), atCount, 1<<16-2) }, "says that it has 65534 entries, and has room for"},
		"free list far too long":       {func(p *pageFile) { p.put16(p.freeList(), atCount, 1<<16-1); p.put64(p.freeList(), atContent, 1<<60) }, "says that it has 1152921504606846976 entries"},
		"free page beyond the file":    {func(p *pageFile) { p.put64(p.freeList(), atContent, 1<<40) }, "the list of free pages has page 1099511627776, and the file has"},
		"free page that describes":     {func(p *pageFile) { p.put64(p.freeList(), atContent, 1) }, "the list of free pages has page 1, and the file has"},
		"free page twice":              {func(p *pageFile) { p.put64(p.freeList(), atContent+8, uint64(p.get64(p.freeList(), atContent))) }, "twice"},
		"free page of the list":        {func(p *pageFile) { p.put64(p.freeList(), atContent, uint64(p.freeList())) }, "which it is on itself"},
		"free page in use":             {func(p *pageFile) { p.put64(p.freeList(), atContent, uint64(leaf(p))) }, "is in use, and in the list of free pages"},
		"free page in use by a value":  {func(p *pageFile) { p.put64(p.freeList(), atContent, uint64(long(p)+1)) }, "is in use, and in the list of free pages"},
		"free list elsewhere":          {func(p *pageFile) { p.signed(p.newest(), atFreeList, 1<<40) }, "said to be on page 1099511627776"},
		"free list on the first page":  {func(p *pageFile) { p.signed(p.newest(), atFreeList, 0) }, "said to be on page 0"},
		"root elsewhere":               {func(p *pageFile) { p.signed(p.newest(), atRoot, 1<<40) }, "leads to page 1099511627776"},
		"root on the first page":       {func(p *pageFile) { p.signed(p.newest(), atRoot, 1) }, "leads to page 1,"},
		"root on the free list":        {func(p *pageFile) { p.signed(p.newest(), atRoot, uint64(p.freeList())) }, "used twice"},
		"more pages than the file has": {func(p *pageFile) { p.signed(p.newest(), atPages, 1<<50) }, "is cut off"},
		"fewer pages than are in use":  {func(p *pageFile) { p.signed(p.newest(), atPages, uint64(branch(p))) }, "and the file has"},
		"page without end":             {func(p *pageFile) { p.put32(leaf(p), atOverflow, 1<<32-1) }, "goes on over the 4294967295 pages behind it"},
		"page that goes on too far":    {func(p *pageFile) { p.put32(leaf(p), atOverflow, 1) }, "is used twice"},
		"value that is cut off":        {func(p *pageFile) { p.put32(long(p), atOverflow, 1) }, "lies outside of it"},
		"page with another's number":   {func(p *pageFile) { p.put64(leaf(p), 0, 1) }, "says that it is page 1"},
		"page of no type":              {func(p *pageFile) { p.put16(leaf(p), atType, 0x20) }, "of type 0x20, and should be a part of a tree"},
		"page of two types":            {func(p *pageFile) { p.put16(leaf(p), atType, typeBranch|typeLeaf) }, "of type 0x3, and should be a part of a tree"},
		"branch read as a leaf":        {func(p *pageFile) { p.put16(branch(p), atType, typeLeaf) }, "entry 0 of page"},
		"branch without entries":       {func(p *pageFile) { p.put16(branch(p), atCount, 0) }, "leads nowhere"},
		"branch to a page far away":    {func(p *pageFile) { p.put64(branch(p), atContent+8, 1<<40) }, "leads to page 1099511627776"},
		"branch to itself":             {func(p *pageFile) { p.put64(branch(p), atContent+8, uint64(branch(p))) }, "used twice"},
		"branch to one page twice":     {func(p *pageFile) { p.put64(branch(p), atContent+8, uint64(p.get64(branch(p), atContent+24))) }, "is used twice"},
		"branches that changed places": {func(p *pageFile) { swap(p, branch(p), atContent+8, atContent+24, 8) }, "is out of order"},
		"page with too many entries":   {func(p *pageFile) { p.put16(leaf(p), atCount, 1<<16-1) }, "has no room for them"},
		"page with one entry too many": {func(p *pageFile) { p.put16(leaf(p), atCount, uint16(p.get16(leaf(p), atCount)+1)) }, "lies outside of it"},
		"entry outside":                {func(p *pageFile) { p.put32(leaf(p), atContent+4, 1<<31) }, "entry 0 of page"},
		"entry before its page":        {func(p *pageFile) { p.put32(leaf(p), atContent+4, 0) }, "lies outside of it"},
		"value outside":                {func(p *pageFile) { p.put32(leaf(p), atContent+12, 1<<32-1) }, "lies outside of it"},
		"entries that changed places":  {func(p *pageFile) { swap(p, leaf(p), atContent+8, atContent+24, 4); swapStarts(p, leaf(p)) }, "is out of order"},
		"key before its page":          {func(p *pageFile) { page := middle(p); p.put(page, key(p, page, 0), []byte{0}) }, "entry 0 of page"},
		"key behind its page": {func(p *pageFile) {
			page := middle(p)
			p.put(page, key(p, page, p.get16(page, atCount)-1), []byte{0xff})
		}, "is out of order"},
		"entry of no kind":              {func(p *pageFile) { p.put32(leaf(p), atContent, 6) }, "is of no known kind"},
		"value read as a bucket":        {func(p *pageFile) { p.put32(leaf(p), atContent, 1) }, "leads to page"},
		"bucket that is cut off":        {func(p *pageFile) { page, _ := bucket(p, false); p.put32(page, atContent+12, 15) }, "is a bucket that is cut off"},
		"bucket elsewhere":              {func(p *pageFile) { page, at := bucket(p, false); p.put64(page, at, 1<<40) }, "leads to page 1099511627776"},
		"small bucket that is cut off":  {func(p *pageFile) { page, _ := bucket(p, true); p.put32(page, atContent+12, 20) }, "is a bucket that is cut off"},
		"small bucket of another type":  {func(p *pageFile) { page, at := bucket(p, true); p.put16(page, at+16+atType, typeBranch) }, "is a bucket of type 0x1"},
		"small bucket with a bucket":    {func(p *pageFile) { page, at := bucket(p, true); p.put32(page, at+16+atContent, 1) }, "is of no known kind"},
		"small bucket with too many":    {func(p *pageFile) { page, at := bucket(p, true); p.put16(page, at+16+atCount, 5000) }, "has no room for them"},
		"two pages that changed places": {func(p *pageFile) { a, b := leaf(p), branch(p); swapPages(p, a, b) }, "says that it is page"},
	}
}

// swap exchanges n bytes at two places of a page.
func swap(p *pageFile, page, at, other, n int64) {
	one, two := p.bytes(page, at, n), p.bytes(page, other, n)
	p.put(page, at, two)
	p.put(page, other, one)
}

// swapStarts exchanges where the keys of the first two entries start. That is
// counted from the entries, which are 16 bytes apart.
func swapStarts(p *pageFile, page int64) {
	first, second := p.get32(page, atContent+4), p.get32(page, atContent+20)
	p.put32(page, atContent+4, uint32(second+16))
	p.put32(page, atContent+20, uint32(first-16))
}

func swapPages(p *pageFile, page, other int64) {
	one, two := p.bytes(page, 0, p.size), p.bytes(other, 0, p.size)
	p.put(page, 0, two)
	p.put(other, 0, one)
}

// Each damage is named, with the file and what to do; it ends no process, makes
// none grow, and the file is not touched. No repair begins.
func TestDamagedPages(t *testing.T) {
	t.Parallel()
	healthy := pagesStore(t)
	require.Empty(t, verifyFile(t, healthy))
	for name, damage := range pageDamages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "atlantis.db")
			copyFile(t, healthy, path)
			damage.plant(editPages(t, path))
			before, err := os.ReadFile(path)
			require.NoError(t, err)

			found := verifyFile(t, path)
			require.NotEmpty(t, found)
			require.Contains(t, found[0].Detail, damage.says)
			for _, v := range found {
				require.Equal(t, enhanced.RuleFile, v.Rule)
				require.Equal(t, path, v.Record)
				require.Contains(t, v.Detail, "; put back a copy of the file that was made while nothing had it open")
				require.Empty(t, v.Repair)
			}
			requireUntouched(t, path, before)

			db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
			require.NoError(t, err)
			defer db.Close()
			damages, err := backends.CheckBoltFile(db)
			require.NoError(t, err)
			require.Len(t, damages, len(found))
			require.False(t, damages[0].Usable)
			repaired, err := backends.RepairBolt(t.Context(), db, "user:admin", "why")
			require.NoError(t, err)
			require.Empty(t, repaired)
			requireUntouched(t, path, before)
		})
	}
}

func requireUntouched(t *testing.T, path string, before []byte) {
	t.Helper()
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after), "the file was touched")
}

// One of the two pages that describe the file can be damaged: the other one
// counts. If the damaged one was the newer, the last transaction is gone.
func TestADamagedDescriptionOfTheFile(t *testing.T) {
	t.Parallel()
	newer := func(p *pageFile) int64 { return p.newest() }
	older := func(p *pageFile) int64 { return 1 - p.newest() }
	for name, c := range map[string]struct {
		which func(p *pageFile) int64
		plant func(p *pageFile, page int64)
		says  string
		// back says that the last transaction is gone.
		back bool
	}{
		"newer, a bit":           {newer, func(p *pageFile, page int64) { p.put64(page, atTxid, uint64(p.get64(page, atTxid))^1) }, "its checksum is wrong", true},
		"newer, zeros":           {newer, func(p *pageFile, page int64) { p.put(page, 0, make([]byte, p.size)) }, "it is none", true},
		"newer, another version": {newer, func(p *pageFile, page int64) { p.put32(page, atContent+4, 3) }, "it is of version 3", true},
		"older, a bit":           {older, func(p *pageFile, page int64) { p.put64(page, atRoot, uint64(p.get64(page, atRoot))^1) }, "its checksum is wrong", false},
		"older, zeros":           {older, func(p *pageFile, page int64) { p.put(page, 0, make([]byte, p.size)) }, "it is none", false},
		"newer, its header":      {newer, func(p *pageFile, page int64) { p.put16(page, atType, 0) }, "its header is wrong", false},
		"older, its header":      {older, func(p *pageFile, page int64) { p.put64(page, 0, 9) }, "its header is wrong", false},
	} {
		for _, parity := range []string{"even", "odd"} { // either page can be the newer
			t.Run(name+", "+parity, func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "atlantis.db")
				db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true, InitialMmapSize: 1 << 24})
				require.NoError(t, err)
				ours, err := backends.NewBoltBackend(db, nil, nil)
				require.NoError(t, err)
				reads, err := db.Begin(false) // while somebody reads, no pages are got in advance
				require.NoError(t, err)
				if parity == "odd" {
					_, err := ours.AcquireLock(t.Context(), request(stockLock("org/app", 6, "one more")))
					require.NoError(t, err)
				}
				lock, err := ours.AcquireLock(t.Context(), request(stockLock("org/app", 5, ".")))
				require.NoError(t, err)
				require.NoError(t, ours.ReleaseLock(t.Context(), lock.ID))
				require.NoError(t, ours.Close())
				require.NoError(t, reads.Rollback())
				require.NoError(t, db.Close())
				p := editPages(t, path)
				page := c.which(p)
				c.plant(p, page)
				before, err := os.ReadFile(path)
				require.NoError(t, err)

				found := verifyFile(t, path)
				require.Equal(t, []string{enhanced.RuleFile}, rulesOf(found))
				require.Contains(t, found[0].Detail, "page "+itoa(page)+", one of the two that describe the file in turn, is damaged ("+c.says+")")
				require.Contains(t, found[0].Detail, "the last transaction changed can be missing")
				require.Contains(t, found[0].Detail, "put back a copy of the file")
				require.Equal(t, path, found[0].Record)
				requireUntouched(t, path, before)

				db, err = bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
				require.NoError(t, err)
				damages, err := backends.CheckBoltFile(db)
				require.NoError(t, err)
				require.NoError(t, db.Close())
				require.Len(t, damages, 1)
				require.True(t, damages[0].Usable)
				s := open(t, path, nil)
				locks, err := s.ours.ListLocks(t.Context())
				require.NoError(t, err)
				held := 0
				for _, lock := range locks {
					if strings.HasSuffix(lock.Resource.Path, ".") {
						held++
					}
				}
				require.Equal(t, c.back, held == 1, "a lock that was released is held again")
				// The next transaction writes the page that is damaged, or the one after it.
				for i := range int64(2) {
					_, err = s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 7, "new"+itoa(i))))
					require.NoError(t, err)
				}
				violations, err := s.ours.Verify(t.Context())
				require.NoError(t, err)
				require.Empty(t, violations)
			})
		}
	}
}

// Whatever bbolt itself writes is sound.
func TestHealthyFilesOfAnyKind(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]*bbolt.Options{
		"small pages":       {PageSize: 1 << 10},
		"large pages":       {PageSize: 1 << 16},
		"no free list":      {NoFreelistSync: true},
		"another free list": {FreelistType: bbolt.FreelistMapType},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "a.db")
			options.NoSync = true
			db, err := bbolt.Open(path, 0o600, options)
			require.NoError(t, err)
			require.NoError(t, db.Close())
			requireSoundFile(t, path, options)
			db, err = bbolt.Open(path, 0o600, options)
			require.NoError(t, err)
			require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
				bucket, err := tx.CreateBucket([]byte("b"))
				require.NoError(t, err)
				for i := range 3000 {
					require.NoError(t, bucket.Put([]byte(itoa(int64(i))), make([]byte, i%50)))
				}
				return bucket.Put([]byte("long"), make([]byte, 1<<20))
			}))
			require.Empty(t, must(backends.CheckBoltFile(db)))
			require.NoError(t, db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("b")).Delete([]byte("long")) }))
			copied := filepath.Join(t.TempDir(), "copy.db")
			require.NoError(t, db.View(func(tx *bbolt.Tx) error { return tx.CopyFile(copied, 0o600) }))
			require.NoError(t, db.Close())
			requireSoundFile(t, path, options)
			requireSoundFile(t, copied, options)
		})
	}
}

func requireSoundFile(t *testing.T, path string, options *bbolt.Options) {
	t.Helper()
	readOnly := *options
	readOnly.ReadOnly = true
	for _, options := range []*bbolt.Options{options, &readOnly} {
		db, err := bbolt.Open(path, 0o600, options)
		require.NoError(t, err)
		require.Empty(t, must(backends.CheckBoltFile(db)))
		require.Empty(t, must(backends.VerifyBolt(db)))
		require.NoError(t, db.Close())
	}
}

// A page's header counts 65,535 entries at most; a longer list has its length
// elsewhere.
func TestAHealthyFileWithManyFreePages(t *testing.T) {
	t.Parallel()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "a.db"), 0o600, &bbolt.Options{PageSize: 1 << 10, NoSync: true})
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucket([]byte("b"))
		require.NoError(t, err)
		return bucket.Put([]byte("long"), make([]byte, 66_000<<10))
	}))
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("b")) }))
	require.Greater(t, db.Stats().PendingPageN, 1<<16)
	require.Empty(t, must(backends.CheckBoltFile(db)))
}

// The check reads the file by its name, and notices when that leads elsewhere.
func TestAFileThatWasReplaced(t *testing.T) {
	t.Parallel()
	path := pagesStore(t)
	s := open(t, path, nil)
	_, err := s.ours.AcquireLock(t.Context(), request(stockLock("org/app", 7, "new")))
	require.NoError(t, err)
	other := filepath.Join(t.TempDir(), "atlantis.db")
	copyFile(t, pagesStore(t), other)
	require.NoError(t, os.Rename(other, path))
	_, err = s.ours.Verify(t.Context())
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.ErrorContains(t, err, "is another file now than the one that is open")
	_, err = backends.CheckBoltFile(s.db)
	require.ErrorContains(t, err, "is another file now than the one that is open", "without a backend, by the transaction")
	require.NoError(t, os.Remove(path))
	_, err = s.ours.Verify(t.Context())
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A copy of the open file, with the same last transaction, is another file: what
// is written from now on is gone with the next start.
func TestAFileThatWasReplacedByItsCopy(t *testing.T) {
	t.Parallel()
	path := pagesStore(t)
	s := open(t, path, nil)
	require.Empty(t, must(s.ours.Verify(t.Context())))
	other := filepath.Join(t.TempDir(), "atlantis.db")
	copyFile(t, path, other)
	require.NoError(t, os.Rename(other, path))
	_, err := s.ours.Verify(t.Context())
	require.ErrorIs(t, err, enhanced.ErrBackend)
	require.ErrorContains(t, err, "is another file now than the one that is open")
	_, err = s.ours.Repair(t.Context(), "user:admin", "why")
	require.ErrorContains(t, err, "is another file now than the one that is open")
}
