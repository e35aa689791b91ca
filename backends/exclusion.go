package backends

import enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"

var (
	_ enhanced.LegacyKeyExcluder = (*BoltBackend)(nil)
	_ enhanced.LegacyKeyExcluder = (*RedisBackend)(nil)
)

// ExcludesByLegacyKey implements [enhanced.LegacyKeyExcluder]: the copies for
// stock have one place.
func (b *BoltBackend) ExcludesByLegacyKey() bool { return b.config.Load().PreserveLegacyFormat }

// ExcludesByLegacyKey implements [enhanced.LegacyKeyExcluder]: the copies for
// stock have one place. On a cluster there are none.
func (b *RedisBackend) ExcludesByLegacyKey() bool {
	return b.config.Load().PreserveLegacyFormat && !b.isCluster()
}
