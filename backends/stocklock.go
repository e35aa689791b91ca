package backends

import (
	"errors"

	"github.com/runatlantis/atlantis/server/events/models"
)

// Why a record of stock Atlantis is no lock. The texts have nothing of the record, which
// can hold a credential.
var (
	errNoLock   = errors.New("it is not JSON of a lock")
	errNoNames  = errors.New("it names no repository or no workspace")
	errOtherKey = errors.New("its key is that of another project")
)

// DecodeStockLock reads a lock as stock Atlantis writes it. Its content says what is
// locked; its key must say the same, in today's form or in that from before Atlantis
// v0.40. Names that no lock can have are not refused. An error says why it can't be
// read, and has nothing of the value. The lock can hold a credential, see
// [enhanced.SanitizeProjectLock].
func DecodeStockLock(key, value string) (*models.ProjectLock, error) {
	v := readStockValue(stockPrefix+key, value, nil)
	if err := v.check(); err != nil {
		return nil, err
	}
	return v.original, nil
}

// check says why a value is no lock, whatever its names are.
func (v stockValue) check() error {
	switch {
	case v.original == nil:
		return errNoLock
	case v.original.Project.RepoFullName == "" || v.original.Workspace == "":
		return errNoNames
	case v.key != stockKey(v.resource) && !v.isOld():
		return errOtherKey
	}
	return nil
}
