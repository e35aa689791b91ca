package backends

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"go.etcd.io/bbolt"
)

// FileDamage is something in a bbolt file that is not as bbolt writes it.
type FileDamage struct {
	// Detail says what is wrong and where.
	Detail string
	// Usable says that the file can be used all the same: all of it that counts
	// can be read, and nothing that is written can destroy anything.
	Usable bool
	// Incomplete says that changes of locks can be missing.
	Incomplete bool
}

const (
	// maxFileDamages is how many damages of a file are named.
	maxFileDamages = 20
	// restoreStep is what ends a damage.
	restoreStep = "put back a copy of the file that was made while nothing had it open"
)

// CheckBoltFile reads all pages of an open file and checks what bbolt takes for
// granted: a file that is damaged makes it panic, read beyond the end, or write
// over what is in use, and mostly only later. It reads the file itself, changes
// nothing, and can be called on a file whose use would end the process. Writers
// wait meanwhile. Its error says that the file can't be checked.
func CheckBoltFile(db *bbolt.DB) (damages []FileDamage, err error) {
	tx, err := db.Begin(!db.IsReadOnly())
	if err != nil {
		return nil, err
	}
	damages, err = checkFile(tx, nil)
	return damages, errors.Join(err, tx.Rollback())
}

// checkFile checks the file of a transaction during which nobody else writes.
// bbolt shows nobody the file that it has open, so it is opened once more by its
// name. That it is the same one is told by opened, how the file was found when
// it was opened, or where that is nil by the number of the last transaction: a
// copy that was made since then passes for it.
func checkFile(tx *bbolt.Tx, opened os.FileInfo) (damages []FileDamage, err error) {
	path := tx.DB().Path()
	file, err := os.Open(path) //nolint:gosec // the file that is open already
	if err != nil {
		return nil, fmt.Errorf("reading the pages of the file: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the pages of the file: %w", err)
	}
	if opened != nil && !os.SameFile(opened, info) {
		return nil, replacedError(path)
	}
	check := fileCheck{file: file, size: info.Size()}
	check.run()
	newest := uint64(tx.ID()) //nolint:gosec // counts up from 0
	if tx.Writable() {
		newest--
	}
	if check.meta.pageSize != 0 && check.meta.txid != newest {
		return nil, replacedError(path)
	}
	return check.report(), nil
}

func replacedError(path string) error {
	return fmt.Errorf("%q is another file now than the one that is open, which was replaced", path)
}

// pageUse is what is known of a page.
type pageUse byte

const (
	pageUnknown pageUse = iota
	pageFree
	pageUsed
)

// fileCheck checks one file.
type fileCheck struct {
	file io.ReaderAt
	size int64
	meta fileMeta
	// described is the page that counts of the two that describe the file.
	described uint64
	uses      []pageUse // by page
	pending   []pageVisit
	buffer    []byte

	damages []FileDamage
	fatal   int // how many of all damages are not usable
	more    int // how many were found beyond those that are kept
}

// pageVisit is a page of a tree that is to be checked, and the bounds of its
// keys: from least on and below limit, nil for none.
type pageVisit struct {
	page         uint64
	least, limit []byte
	// inEntry says that it is in an entry of the page: a small bucket.
	inEntry bool
}

func (c *fileCheck) run() {
	if !c.checkMetas() {
		return
	}
	c.uses = make([]pageUse, c.meta.pages)
	c.uses[0], c.uses[1] = pageUsed, pageUsed
	if c.meta.freeList != noFreeList {
		c.checkFreeList(c.meta.freeList)
	}
	c.refer(c.described, pageVisit{page: c.meta.root})
	for len(c.pending) > 0 {
		last := len(c.pending) - 1
		visit := c.pending[last]
		c.pending = c.pending[:last]
		c.checkPage(visit)
	}
	if c.fatal > 0 || c.meta.freeList == noFreeList {
		return // whether a page is lost, can't be told
	}
	for page, use := range c.uses {
		if use == pageUnknown {
			c.found(FileDamage{Usable: true, Detail: fmt.Sprintf("page %d is neither in use nor free: its space is lost, and nothing else", page)})
		}
	}
}

func (c *fileCheck) found(damage FileDamage) {
	if !damage.Usable {
		c.fatal++
	}
	if len(c.damages) == maxFileDamages {
		c.more++
		return
	}
	c.damages = append(c.damages, damage)
}

func (c *fileCheck) damaged(format string, args ...any) {
	c.found(FileDamage{Detail: fmt.Sprintf(format, args...)})
}

// report returns what was found.
func (c *fileCheck) report() []FileDamage {
	if c.more == 0 {
		return c.damages
	}
	return append(c.damages, FileDamage{Detail: fmt.Sprintf("%d more of this kind", c.more), Usable: c.fatal == 0})
}

// checkMetas finds out what describes the file, and reports whether that can be
// relied on.
func (c *fileCheck) checkMetas() bool {
	metas, damage, err := readMetas(c.file, c.size)
	if err != nil {
		c.damaged("%v", err)
		return false
	}
	for page, meta := range metas {
		if damage[page] != nil {
			c.found(FileDamage{Usable: true, Incomplete: true, Detail: fmt.Sprintf(
				"page %d, one of the two that describe the file in turn, is damaged (%v): what the last transaction changed can be missing, "+
					"so that a lock that it released is held again, and one that it took is free; the next transaction writes the page again; "+
					"look through the locks, or %s", page, damage[page], restoreStep)})
		}
		readable := damage[page] == nil || errors.Is(damage[page], errMetaHeader)
		if readable && (c.meta.pageSize == 0 || meta.txid > c.meta.txid) {
			c.meta, c.described = meta, uint64(page) //nolint:gosec // 0 or 1
		}
	}
	if c.meta.pageSize == 0 {
		c.damaged("neither of the two pages that describe the file can be relied on")
		return false
	}
	if there := uint64(c.size / c.meta.pageSize); c.meta.pages > there { //nolint:gosec // a size is positive
		c.damaged("the file is cut off: it has %d whole pages of %d bytes, and says that it has %d", there, c.meta.pageSize, c.meta.pages)
		return false
	}
	return true
}

// take marks a page and its overflow as used, and returns their content; nil if
// that can't be.
func (c *fileCheck) take(id uint64) (header pageHeader, data []byte) {
	size := c.meta.pageSize
	data, ok := c.read(id, size)
	if !ok {
		return header, nil
	}
	header = readPageHeader(data)
	if header.id != id {
		c.damaged("page %d says that it is page %d", id, header.id)
		return header, nil
	}
	last := id + uint64(header.overflow)
	if last >= c.meta.pages {
		c.damaged("page %d says that it goes on over the %d pages behind it, and the file has %d pages", id, header.overflow, c.meta.pages)
		return header, nil
	}
	for page := id; page <= last; page++ {
		switch c.uses[page] {
		case pageUsed:
			c.damaged("page %d is used twice", page)
			return header, nil
		case pageFree:
			c.damaged("page %d is in use, and in the list of free pages", page)
			return header, nil
		case pageUnknown:
			c.uses[page] = pageUsed
		}
	}
	if header.overflow > 0 {
		if data, ok = c.read(id, size*(int64(header.overflow)+1)); !ok {
			return header, nil
		}
	}
	return header, data
}

// read returns length bytes from the start of a page, until the next call.
func (c *fileCheck) read(id uint64, length int64) ([]byte, bool) {
	if int64(cap(c.buffer)) < length {
		c.buffer = make([]byte, length)
	}
	data := c.buffer[:length]
	if _, err := c.file.ReadAt(data, int64(id)*c.meta.pageSize); err != nil { //nolint:gosec // within the file
		c.damaged("page %d can't be read: %v", id, readError(err))
		return nil, false
	}
	return data, true
}

// checkFreeList comes before the trees: a page that is in use and free is then
// found where it is used.
func (c *fileCheck) checkFreeList(id uint64) {
	if id < 2 || id >= c.meta.pages {
		c.damaged("the list of free pages is said to be on page %d, and the file has %d pages", id, c.meta.pages)
		return
	}
	header, data := c.take(id)
	if data == nil {
		return
	}
	if header.kind != pageFreeList {
		c.damaged("page %d is of type %#x, and should be the list of free pages", id, header.kind)
		return
	}
	entries := data[pageHeaderSize:]
	length := uint64(header.count) //nolint:gosec // of 16 bits
	if length == manyFree {
		length, entries = binary.NativeEndian.Uint64(entries), entries[8:]
	}
	if room := uint64(len(entries) / 8); length > room {
		c.damaged("page %d, the list of free pages, says that it has %d entries, and has room for %d", id, length, room)
		return
	}
	for i := range length {
		switch page := binary.NativeEndian.Uint64(entries[8*i:]); {
		case page < 2 || page >= c.meta.pages:
			c.damaged("the list of free pages has page %d, and the file has %d pages", page, c.meta.pages)
		case c.uses[page] == pageFree:
			c.damaged("the list of free pages has page %d twice", page)
		case c.uses[page] == pageUsed:
			c.damaged("the list of free pages has page %d, which it is on itself", page)
		default:
			c.uses[page] = pageFree
		}
	}
}

// refer has a page of a tree checked, to which another one leads: the file's
// description or a page.
func (c *fileCheck) refer(from uint64, visit pageVisit) {
	if visit.page < 2 || visit.page >= c.meta.pages {
		c.damaged("page %d leads to page %d, and the file has %d pages", from, visit.page, c.meta.pages)
		return
	}
	c.pending = append(c.pending, visit)
}

func (c *fileCheck) checkPage(visit pageVisit) {
	header, data := c.take(visit.page)
	if data == nil {
		return
	}
	c.checkTreePage(visit, header, data)
}

// checkTreePage checks a page of a tree; data is all of it.
func (c *fileCheck) checkTreePage(visit pageVisit, header pageHeader, data []byte) {
	id, leaf := visit.page, header.kind == pageLeaf
	switch {
	case !leaf && header.kind != pageBranch:
		c.damaged("page %d is of type %#x, and should be a part of a tree", id, header.kind)
		return
	case !leaf && header.count == 0:
		c.damaged("page %d leads nowhere", id)
		return
	}
	first := int64(pageHeaderSize + pageElementSize*header.count)
	if first > int64(len(data)) {
		c.damaged("page %d says that it has %d entries, and has no room for them", id, header.count)
		return
	}
	var branches []pageVisit
	var previous []byte
	for i := range header.count {
		element := readPageElement(data, i, leaf)
		if element.start < first || element.past > int64(len(data)) {
			c.damaged("entry %d of page %d lies outside of it", i, id)
			return
		}
		key := data[element.start:element.end]
		if i == 0 && bytes.Compare(key, visit.least) < 0 || i > 0 && bytes.Compare(key, previous) <= 0 ||
			visit.limit != nil && bytes.Compare(key, visit.limit) >= 0 {
			c.damaged("entry %d of page %d is out of order", i, id)
			return
		}
		previous = key
		switch {
		case !leaf:
			branches = append(branches, pageVisit{page: element.child, least: bytes.Clone(key), limit: visit.limit})
			if i > 0 {
				branches[i-1].limit = branches[i].least
			}
		case element.flags > elementBucket, element.flags == elementBucket && visit.inEntry:
			c.damaged("entry %d of page %d is of no known kind", i, id)
		case element.flags == elementBucket:
			c.checkBucket(id, i, data[element.end:element.past])
		}
	}
	for _, branch := range branches {
		c.refer(id, branch)
	}
}

// checkBucket checks the value of an entry that is a bucket: it names the page
// of its root or, where it is small, has it behind its header.
func (c *fileCheck) checkBucket(id uint64, entry int, value []byte) {
	if len(value) < bucketHeaderSize {
		c.damaged("entry %d of page %d is a bucket that is cut off", entry, id)
		return
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		c.refer(id, pageVisit{page: root})
		return
	}
	inline := value[bucketHeaderSize:]
	if len(inline) < pageHeaderSize {
		c.damaged("entry %d of page %d is a bucket that is cut off", entry, id)
		return
	}
	header := readPageHeader(inline)
	if header.kind != pageLeaf {
		c.damaged("entry %d of page %d is a bucket of type %#x", entry, id, header.kind)
		return
	}
	c.checkTreePage(pageVisit{page: id, inEntry: true}, header, inline)
}
