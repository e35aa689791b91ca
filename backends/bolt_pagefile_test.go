package backends_test

import (
	"encoding/binary"
	"hash/fnv"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// pageFile changes the pages of a bbolt file. It goes by bbolt's layout: a
// header of 16 bytes on each page with its number, its type, a count and an
// overflow; in the first two pages, behind it, a description of the file.
type pageFile struct {
	t    *testing.T
	file *os.File
	size int64 // of a page
}

const (
	typeBranch, typeLeaf = 0x01, 0x02

	atType, atCount, atOverflow, atContent = 8, 10, 12, 16
	// In the description of the file.
	atPageSize, atRoot, atFreeList, atPages, atTxid, atChecksum = 24, 32, 48, 56, 64, 72
)

// editPages opens a file that nothing else has open until the test ends.
func editPages(t *testing.T, path string) *pageFile {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, file.Close()) })
	return &pageFile{t, file, int64(os.Getpagesize())}
}

func (p *pageFile) bytes(page int64, at, n int64) []byte {
	p.t.Helper()
	data := make([]byte, n)
	_, err := p.file.ReadAt(data, page*p.size+at)
	require.NoError(p.t, err)
	return data
}

func (p *pageFile) put(page, at int64, data []byte) {
	p.t.Helper()
	_, err := p.file.WriteAt(data, page*p.size+at)
	require.NoError(p.t, err)
}

func (p *pageFile) get64(page, at int64) int64 {
	return int64(binary.NativeEndian.Uint64(p.bytes(page, at, 8)))
}
func (p *pageFile) get32(page, at int64) int64 {
	return int64(binary.NativeEndian.Uint32(p.bytes(page, at, 4)))
}
func (p *pageFile) get16(page, at int64) int64 {
	return int64(binary.NativeEndian.Uint16(p.bytes(page, at, 2)))
}
func (p *pageFile) put64(page, at int64, n uint64) {
	p.put(page, at, binary.NativeEndian.AppendUint64(nil, n))
}
func (p *pageFile) put32(page, at int64, n uint32) {
	p.put(page, at, binary.NativeEndian.AppendUint32(nil, n))
}
func (p *pageFile) put16(page, at int64, n uint16) {
	p.put(page, at, binary.NativeEndian.AppendUint16(nil, n))
}

// newest is the page that describes the file.
func (p *pageFile) newest() int64 {
	if p.get64(1, atTxid) > p.get64(0, atTxid) {
		return 1
	}
	return 0
}

// signed changes what describes the file, with a checksum that is right.
func (p *pageFile) signed(page, at int64, n uint64) {
	p.put64(page, at, n)
	sum := fnv.New64a()
	sum.Write(p.bytes(page, atContent, atChecksum-atContent))
	p.put64(page, atChecksum, sum.Sum64())
}

// listFreePages opens a file and closes it, which writes the list of its free pages.
func listFreePages(t *testing.T, path string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Close())
}

func (p *pageFile) freeList() int64 { return p.get64(p.newest(), atFreeList) }

// used returns a page of a type that is in use, for which is holds.
func (p *pageFile) used(kind int64, is func(page int64) bool) int64 {
	p.t.Helper()
	list := p.freeList()
	unused := map[int64]bool{list: true}
	for i := range p.get16(list, atCount) {
		unused[p.get64(list, atContent+8*i)] = true
	}
	for page := int64(2); page < p.get64(p.newest(), atPages); page++ {
		if !unused[page] && p.get64(page, 0) == page && p.get16(page, atType) == kind && (is == nil || is(page)) {
			return page
		}
	}
	p.t.Fatalf("no page of type %d", kind)
	return 0
}

// pagesStore makes a store with all that a bbolt file can have: trees of several
// levels, free pages, buckets small and large, a value of several pages.
func pagesStore(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "atlantis.db")
	large(t, path)
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		outer, err := tx.CreateBucket([]byte("other"))
		require.NoError(t, err)
		small, err := outer.CreateBucket([]byte("small"))
		require.NoError(t, err)
		require.NoError(t, small.Put([]byte("key"), []byte("value")))
		return outer.Put([]byte("value"), make([]byte, 3*os.Getpagesize()))
	}))
	require.NoError(t, db.Close())
	return path
}
