module github.com/runatlantis/atlantis/server/core/locking/enhanced

go 1.26.5

require (
	github.com/google/uuid v1.6.0
	github.com/runatlantis/atlantis v0.47.1
	go.etcd.io/bbolt v1.4.3
)

require (
	github.com/bmatcuk/doublestar/v4 v4.10.0 // indirect
	github.com/golang/mock v1.6.0 // indirect
	github.com/hashicorp/go-version v1.9.0 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/twmb/murmur3 v1.1.8 // indirect
	github.com/uber-go/tally/v4 v4.1.17 // indirect
	go.uber.org/atomic v1.11.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	go.uber.org/zap v1.27.1 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/text v0.41.0 // indirect
)
