package enhanced

import "github.com/runatlantis/atlantis/server/logging"

// noopLogger stands in where a constructor was given no logger.
type noopLogger struct{}

// LoggerOrNoop returns logger, or one that discards everything if it is nil.
func LoggerOrNoop(logger logging.SimpleLogging) logging.SimpleLogging {
	if logger == nil {
		return noopLogger{}
	}
	return logger
}

func (noopLogger) Debug(string, ...any)                       {}
func (noopLogger) Info(string, ...any)                        {}
func (noopLogger) Warn(string, ...any)                        {}
func (noopLogger) Err(string, ...any)                         {}
func (noopLogger) Log(logging.LogLevel, string, ...any)       {}
func (noopLogger) SetLevel(logging.LogLevel)                  {}
func (l noopLogger) With(...any) logging.SimpleLogging        { return l }
func (l noopLogger) WithHistory(...any) logging.SimpleLogging { return l }
func (noopLogger) GetHistory() string                         { return "" }
func (noopLogger) Flush() error                               { return nil }
