package deadline_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runatlantis/atlantis/server/core/locking/enhanced/internal/deadline"
	"github.com/stretchr/testify/require"
)

// It ends at its deadline for who listens from the beginning, for who only asks, and for
// what is derived from it.
func TestEndsAtTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked, heard := deadline.In(time.Minute), deadline.In(time.Minute)
		derived, cancel := context.WithCancel(deadline.In(time.Minute))
		defer cancel()
		done := heard.Done()
		at, timed := heard.Deadline()
		require.True(t, timed)
		require.Equal(t, time.Now().Add(time.Minute), at)

		<-time.After(time.Minute - 1)
		synctest.Wait()
		left, is := deadline.Left(asked)
		require.True(t, is)
		require.Equal(t, time.Nanosecond, left)
		for _, ctx := range []context.Context{asked, heard, derived} {
			require.NoError(t, ctx.Err())
		}
		<-time.After(1)
		for _, ctx := range []context.Context{heard, asked} { // also before its timer has run
			require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
			<-ctx.Done()
		}
		<-done
		synctest.Wait()
		require.ErrorIs(t, derived.Err(), context.DeadlineExceeded)
	})
}

// Its end is heard by those who listened before and by those who come later.
func TestEnd(t *testing.T) {
	t.Parallel()
	early, late := deadline.In(time.Hour), deadline.In(time.Hour)
	derived, cancel := context.WithTimeout(early, time.Hour)
	defer cancel()
	valued := deadline.WithValue(early, key{}, 1)
	done := valued.Done()
	for _, c := range []*deadline.Context{early, late} {
		c.End()
		c.End()
	}
	for _, ctx := range []context.Context{early, late, derived, valued} {
		require.ErrorIs(t, ctx.Err(), context.Canceled)
		<-ctx.Done()
	}
	<-done
}

// Whoever asks again is told the same: of an end before the deadline also after that, and
// of the deadline also after the end.
func TestErrStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ended, late := deadline.In(time.Minute), deadline.In(time.Minute)
		valued := deadline.WithValue(ended, key{}, 1)
		ended.End()
		require.ErrorIs(t, ended.Err(), context.Canceled)
		require.ErrorIs(t, valued.Err(), context.Canceled)
		<-time.After(time.Minute)
		require.ErrorIs(t, late.Err(), context.DeadlineExceeded)
		late.End()
		ended.End()
		for range 2 { // before and after somebody listens
			for _, ctx := range []context.Context{ended, valued} {
				require.ErrorIs(t, ctx.Err(), context.Canceled)
			}
			require.ErrorIs(t, late.Err(), context.DeadlineExceeded)
			for _, ctx := range []context.Context{valued, ended, late} {
				<-ctx.Done()
			}
		}
	})
}

type key struct{}

// A value leaves the context what it is; of other contexts it makes none.
func TestWithValue(t *testing.T) {
	t.Parallel()
	ctx := deadline.WithValue(deadline.In(time.Hour), key{}, 1)
	_, is := deadline.Left(ctx)
	require.True(t, is)
	require.Equal(t, 1, ctx.Value(key{}))
	require.NoError(t, ctx.Err())

	other, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	other = deadline.WithValue(other, key{}, 2)
	_, is = deadline.Left(other)
	require.False(t, is)
	require.Equal(t, 2, other.Value(key{}))
}
