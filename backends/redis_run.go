package backends

import (
	"context"
	"strings"

	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
)

var _ enhanced.RunKeeper = (*RedisBackend)(nil)

// EndRun ends what a pull request keeps while it plans. See [enhanced.RunKeeper].
func (b *RedisBackend) EndRun(ctx context.Context, owner enhanced.Owner) error {
	if err := checkPlans(owner); err != nil {
		return err
	}
	operation, tag := "end the run of "+owner.Describe(), enhanced.RepositoryTag(owner.Repository)
	var resources []enhanced.ResourceIdentifier
	args := []any{owner.String(), owner.Number}
	for {
		a, err := b.step(ctx, operation, b.scripts.endRun, tag, owner.Repository, b.stockKeys(resources...), args...)
		if err != nil || len(a.values) == 0 {
			return err
		}
		resources, args = nil, args[:2]
		for _, text := range a.values {
			_, key, _ := strings.Cut(text, "\n")
			resources = append(resources, newIndexEntry(owner.Repository, text, key).resource)
			args = append(args, text)
		}
	}
}

// ClosePull keeps a closed pull request from taking locks. See
// [enhanced.RunKeeper]. What it has taken goes in the step that leaves the tombstone,
// as far as one step has room for it; the next ones release what it had taken by then.
// One that is cut off is done again as a whole.
func (b *RedisBackend) ClosePull(ctx context.Context, owner enhanced.Owner, headCommit string) error {
	if err := checkPlans(owner); err != nil {
		return err
	}
	_, err := b.releaseAll(ctx, "close "+owner.Describe(), pullRelease{
		repository: owner.Repository, number: owner.Number, actor: enhanced.SystemAtlantis, mark: "closed",
		closed: owner.String(), head: headCommit,
	})
	return err
}
