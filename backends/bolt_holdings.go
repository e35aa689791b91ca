package backends

import (
	"math"
	"slices"

	"github.com/go-json-experiment/json"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

// holdings is an index of what owners hold in a repository. It is in memory and
// follows from the lock records: in the file, each lock would have one more entry,
// whose place has nothing to do with that of the record.
type holdings struct {
	// resources are the keys of what is held, in order, by owner. That of a pull request
	// is without its repository, which is the one that this is of.
	resources map[enhanced.Owner][]string
	// hosts are those of pull requests that hold something, in order, by number:
	// stock's UnlockByPull knows no host.
	hosts map[int][]string
}

func newHoldings() holdings {
	return holdings{resources: make(map[enhanced.Owner][]string), hosts: make(map[int][]string)}
}

// add notes that an owner holds a resource. It may be known.
func (h *holdings) add(owner enhanced.Owner, resourceKey string) {
	key := asHolder(owner)
	held := h.resources[key]
	if len(held) == 0 && owner.Kind == enhanced.OwnerPull {
		h.hosts[owner.Number] = insertOnce(h.hosts[owner.Number], owner.Host)
	}
	h.resources[key] = insertOnce(held, resourceKey)
}

func asHolder(owner enhanced.Owner) enhanced.Owner {
	if owner.Kind == enhanced.OwnerPull {
		owner.Repository = ""
	}
	return owner
}

// remove notes that an owner does not hold a resource. It may be unknown.
func (h *holdings) remove(owner enhanced.Owner, resourceKey string) {
	key := asHolder(owner)
	held := removeOnce(h.resources[key], resourceKey)
	if len(held) > 0 {
		h.resources[key] = held
		return
	}
	delete(h.resources, key)
	if owner.Kind != enhanced.OwnerPull {
		return
	}
	if h.hosts[owner.Number] = removeOnce(h.hosts[owner.Number], owner.Host); len(h.hosts[owner.Number]) == 0 {
		delete(h.hosts, owner.Number)
	}
}

// of returns up to limit resources that an owner holds in the repository.
func (h *holdings) of(owner enhanced.Owner, repository string, limit int) (found []enhanced.ResourceIdentifier) {
	for _, key := range h.resources[asHolder(owner)] {
		if len(found) >= limit {
			break
		}
		if resource, err := enhanced.ParseResourceKey(repository, key); err == nil {
			found = append(found, resource)
		}
	}
	return found
}

func insertOnce(ordered []string, s string) []string {
	at, found := slices.BinarySearch(ordered, s)
	if found {
		return ordered
	}
	return slices.Insert(ordered, at, s)
}

func removeOnce(ordered []string, s string) []string {
	at, found := slices.BinarySearch(ordered, s)
	switch {
	case !found:
		return ordered
	case at == 0: // as when all go, one after the other
		ordered[0] = ""
		return ordered[1:]
	default:
		return slices.Delete(ordered, at, at+1)
	}
}

// heldLock is the part of a lock record that the memory is of. The rest is no
// concern there: it may be large.
type heldLock struct {
	Token        int64  `json:"n,string"`
	Owner        string `json:"o"`
	ShortOwner   string `json:"h"`
	Request      string `json:"q"`
	ShortRequest string `json:"u"`
}

// eachHeld calls fn for the repository's lock records. Of a record that can't be read,
// the owner is known only from stock's copy.
func (r *repository) eachHeld(fn func(resourceKey string, lock heldLock, owner enhanced.Owner)) {
	r.locks(func(resource enhanced.ResourceIdentifier, data []byte, err error) {
		if err != nil {
			return
		}
		var lock heldLock
		if json.Unmarshal(data, &lock) != nil {
			lock = heldLock{}
		}
		if lock.Owner == "" && lock.ShortOwner != "" {
			lock.Owner = longOwner(r.name, lock.ShortOwner)
		}
		if id, ok := longRequest(lock.ShortRequest); ok && lock.Request == "" {
			lock.Request = id
		}
		owner, err := enhanced.ParseOwner(lock.Owner)
		if err != nil {
			owner = r.ownerOfCopy(resource)
		}
		fn(resource.Key(), lock, owner)
	})
}

// ownerOfCopy returns who holds a resource by stock's record, the zero Owner where
// that can't be read.
func (r *repository) ownerOfCopy(resource enhanced.ResourceIdentifier) enhanced.Owner {
	copied := r.entry(resource, nil).copied
	if copied == nil {
		return enhanced.Owner{}
	}
	lock, err := decodeProjectLock(copied)
	if err != nil {
		return enhanced.Owner{}
	}
	return enhanced.ProjectLockOwner(*lock)
}

// heldByPull returns up to limit resources that pull requests with the number
// hold, and those pull requests.
func (s *repositoryStep) heldByPull(number, limit int) (resources []enhanced.ResourceIdentifier, owners []string) {
	h := &s.memory().holdings
	for _, host := range h.hosts[number] {
		owner := enhanced.PullOwner(host, s.name, number)
		owners = append(owners, owner.String())
		resources = append(resources, h.of(owner, s.name, limit-len(resources))...)
	}
	return resources, owners
}

// heldBy returns what an owner holds, as a pull request also without its host.
func (s *repositoryStep) heldBy(owner enhanced.Owner) []enhanced.ResourceIdentifier {
	h := &s.memory().holdings
	found := h.of(owner, s.name, math.MaxInt)
	if owner.Kind == enhanced.OwnerPull && owner.Host != "" {
		found = append(found, h.of(enhanced.PullOwner("", owner.Repository, owner.Number), s.name, math.MaxInt)...)
	}
	return found
}
