package tests

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// childMode is the environment variable that makes the test binary a process
// that a test starts, and may kill. Its value names what to run.
const childMode = "ATLANTIS_LOCKS_TEST_CHILD"

func TestMain(m *testing.M) {
	switch mode := os.Getenv(childMode); mode {
	case "":
		goleak.VerifyTestMain(m)
	case "load":
		runLoad(os.Args[1])
	case "contend":
		os.Exit(runContend(os.Args[1], os.Args[2], os.Args[3]))
	case "hold":
		os.Exit(runHold(os.Args[1]))
	case "keep":
		os.Exit(runKeep(os.Args[1]))
	case "detect":
		runDetect(os.Args[1])
	case "sets":
		os.Exit(runSets(os.Args[1], os.Args[2], os.Args[3]))
	case "callers":
		runCallers(os.Args[1])
	case "full":
		os.Exit(runFullDisk(os.Args[1]))
	case "grow":
		os.Exit(runGrow(os.Args[1], os.Args[2]))
	default:
		panic("no such child: " + mode)
	}
}
