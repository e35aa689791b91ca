// Package api has the JSON types of the HTTP API that package web serves, for
// servers and clients in Go. The field names are stable; the tags beside them
// describe the fields in the API's OpenAPI document.
package api

// Paths of the API. Everything but the health checks is below [Base].
const (
	Base        = "/api/v1"
	LocksPath   = Base + "/locks"
	LookupPath  = Base + "/lock"
	UnlockPath  = Base + "/unlock"
	RefreshPath = Base + "/refresh"
	StatsPath   = Base + "/stats"
	ImportPath  = Base + "/import"
	OpenAPIPath = "/openapi.json"
	LivePath    = "/healthz"
	ReadyPath   = "/readyz"
)

// NoTimeout as a timeout asks for a lock that is held until released.
const NoTimeout = "none"
