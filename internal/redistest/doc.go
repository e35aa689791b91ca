// Package redistest starts real Redis servers for tests: alone, behind
// Sentinel, or as a cluster, plainly or with TLS, users and passwords. They
// listen on free loopback ports, keep their files in the test's folder, and end
// with the test.
package redistest
