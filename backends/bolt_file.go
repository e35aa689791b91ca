package backends

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// The layout of a bbolt file, as its versions 1.3 and 1.4 write it, in the byte
// order of the machine. A file is a row of pages. Each starts with a header, and
// one with more content goes on over the pages behind it, its overflow. The
// first two pages describe the file, in turn: each transaction writes one of
// them last, and the newer one that is whole counts.
const (
	pageHeaderSize   = 16
	pageElementSize  = 16
	bucketHeaderSize = 16

	pageBranch   = 0x01
	pageLeaf     = 0x02
	pageMeta     = 0x04
	pageFreeList = 0x10

	// elementBucket marks an entry that is a bucket.
	elementBucket = 0x01

	metaSize    = 64
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	// noFreeList stands for the list's page in a file that has none.
	noFreeList = ^uint64(0)
	// manyFree stands for the length of a list that is too long for a header;
	// its first entry is the length then.
	manyFree = 0xFFFF

	minPageSize = 1 << 10
	maxPageSize = 1 << 24
)

// pageHeader is the first part of each page.
type pageHeader struct {
	id       uint64
	kind     uint16
	count    int // of entries
	overflow uint32
}

func readPageHeader(data []byte) pageHeader {
	order := binary.NativeEndian
	return pageHeader{
		id: order.Uint64(data), kind: order.Uint16(data[8:]),
		count: int(order.Uint16(data[10:])), overflow: order.Uint32(data[12:]),
	}
}

// pageElement is an entry of a page: it says where its key is and, in a leaf,
// its value behind the key.
type pageElement struct {
	flags uint32
	// start and end bound the key, past the value; all are offsets in the page.
	start, end, past int64
	// child is the page that a branch leads to.
	child uint64
}

// readPageElement reads the entry with an index. The page must be long enough
// for that; whether what the entry names is in it, is another question.
func readPageElement(data []byte, index int, leaf bool) pageElement {
	order := binary.NativeEndian
	offset := pageHeaderSize + pageElementSize*index
	raw := data[offset : offset+pageElementSize]
	if !leaf {
		start := int64(offset) + int64(order.Uint32(raw))
		end := start + int64(order.Uint32(raw[4:]))
		return pageElement{start: start, end: end, past: end, child: order.Uint64(raw[8:])}
	}
	start := int64(offset) + int64(order.Uint32(raw[4:]))
	end := start + int64(order.Uint32(raw[8:]))
	return pageElement{flags: order.Uint32(raw), start: start, end: end, past: end + int64(order.Uint32(raw[12:]))}
}

// fileMeta is what one of the first two pages says of the file.
type fileMeta struct {
	pageSize int64
	root     uint64 // page of the root bucket
	freeList uint64 // page of the list of free pages
	pages    uint64 // how many there are, the first two included
	txid     uint64 // the transaction that wrote it
}

// readMeta reads the page in data as a description of the file. It is good for
// nothing with an error, unless that is errMetaHeader.
func readMeta(data []byte, id uint64) (meta fileMeta, err error) {
	order := binary.NativeEndian
	raw := data[pageHeaderSize : pageHeaderSize+metaSize]
	sum := fnv.New64a()
	sum.Write(raw[:metaSize-8])
	switch {
	case order.Uint32(raw) != metaMagic:
		return fileMeta{}, errors.New("it is none")
	case order.Uint32(raw[4:]) != metaVersion:
		return fileMeta{}, fmt.Errorf("it is of version %d", order.Uint32(raw[4:]))
	case sum.Sum64() != order.Uint64(raw[metaSize-8:]):
		return fileMeta{}, errors.New("its checksum is wrong")
	}
	meta = fileMeta{
		pageSize: int64(order.Uint32(raw[8:])),
		root:     order.Uint64(raw[16:]),
		freeList: order.Uint64(raw[32:]),
		pages:    order.Uint64(raw[40:]),
		txid:     order.Uint64(raw[48:]),
	}
	if header := readPageHeader(data); header.id != id || header.kind != pageMeta {
		return meta, errMetaHeader
	}
	return meta, nil
}

// errMetaHeader says that a page describes the file, but not itself.
var errMetaHeader = errors.New("its header is wrong")

// readMetas reads the first two pages, and why each of them is damaged. It has
// an error where that can't be told, since neither says how long a page is.
func readMetas(file io.ReaderAt, size int64) (metas [2]fileMeta, damage [2]error, err error) {
	first, err := readMetaAt(file, 0, 0)
	if pageSize := first.pageSize; isPageSize(pageSize) {
		metas[0], damage[0] = first, err
		metas[1], damage[1] = readMetaAt(file, pageSize, 1)
		if damage[1] == nil && metas[1].pageSize != pageSize {
			damage[1] = pageSizeError(metas[1].pageSize)
		}
		return metas, damage, nil
	}
	if err == nil {
		err = pageSizeError(first.pageSize)
	}
	// Without the first one, nobody knows where the second one is.
	for at := int64(minPageSize); at <= maxPageSize && at < size; at *= 2 {
		second, secondErr := readMetaAt(file, at, 1)
		if second.pageSize == at {
			return [2]fileMeta{{}, second}, [2]error{err, secondErr}, nil
		}
	}
	return metas, damage, fmt.Errorf("neither of the two pages that describe the file can be relied on; of the first one, %w", err)
}

func pageSizeError(size int64) error { return fmt.Errorf("it says that pages have %d bytes", size) }

func isPageSize(size int64) bool {
	return size >= minPageSize && size <= maxPageSize && size&(size-1) == 0
}

func readMetaAt(file io.ReaderAt, at int64, id uint64) (fileMeta, error) {
	data := make([]byte, pageHeaderSize+metaSize)
	if _, err := file.ReadAt(data, at); err != nil {
		return fileMeta{}, fmt.Errorf("it can't be read (%w)", readError(err))
	}
	return readMeta(data, id)
}

// readError says what the end of a file means here.
func readError(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the file ends before")
	}
	return err
}
