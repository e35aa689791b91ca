package main

import (
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

func TestParseStoreURL(t *testing.T) {
	for text, want := range map[string]string{
		"boltdb:/var/lib/a.db":                         "/var/lib/a.db",
		"stock+boltdb:a.db":                            "a.db, in the format of stock Atlantis",
		"redis://127.0.0.1:6379":                       "Redis at 127.0.0.1:6379",
		"redis://127.0.0.1:6379/3":                     "Redis at 127.0.0.1:6379, database 3",
		"rediss://locks@r1:1?ca=x.pem&password-file=p": "Redis at r1:1",
		"redis://r1:1,r2:2":                            "the Redis cluster at r1:1, r2:2",
		"redis://r1:1?cluster=true&prefix=p:":          "the Redis cluster at r1:1",
		"redis://s1:1,s2:2/1?sentinel-master=locks":    "Redis locks behind the sentinels s1:1, s2:2, database 1",
		"stock+redis://[::1]:6379":                     "Redis at [::1]:6379, in the format of stock Atlantis",
	} {
		store, err := parseStoreURL(text, true)
		require.NoError(t, err, text)
		require.NoError(t, store.check(&cobra.Command{}, "to"), text)
		require.Equal(t, want, store.describe(), text)
	}
	for text, want := range map[string]string{
		"":                                   "neither boltdb:FILE",
		"boltdb:":                            "names no file",
		"http://hunter2":                     "neither boltdb:FILE",
		"redis://a:hunter2@r1:1":             "has a password in it",
		"redis://:hunter2@r1:1":              "has a password in it",
		"redis://hun@ter2:x@r1:1":            "has a password in it",
		"redis://r1:1/hunter2":               "no number of a database",
		"redis://r1:1/-1":                    "no number of a database",
		"redis://r1:1?cluster=hunter2":       "neither true nor false",
		"redis://r1:1?password=hunter2":      "no option password",
		"redis://r1:1?prefix=a&prefix=b":     "has 2 values",
		"redis://r1:1?prefix=":               "has 1 values",
		"redis://r1:1?ca=hunter2":            "needs rediss://",
		"redis://r1:1?%zz=hunter2":           "NAME=VALUE",
		"redis://r1:1?prefix=a%7Bb":          "redis_key_prefix",
		"redis://hunter2":                    "HOST:PORT",
		"redis://r1:1,r2:2/1":                "database 0 only",
		"redis://r1:1?sentinel-master=&db=1": "",
	} {
		store, err := parseStoreURL(text, true)
		if err == nil {
			err = store.check(&cobra.Command{}, "to")
		}
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "hunter2", text)
	}
	_, err := parseStoreURL("stock+boltdb:a.db", false)
	require.ErrorContains(t, err, "can't be a store of stock Atlantis")
}
