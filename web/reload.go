package web

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

func (s *server) registerReload(reload func(context.Context) (api.Reload, error)) {
	if reload == nil {
		return
	}
	register(s, operationTimeout, huma.Operation{
		OperationID: "reload-configuration",
		Summary:     "Read the server's configuration again",
		Description: "Options that can change at run time do so together; the others are named, and keep their values. A configuration that is wrong changes nothing.",
		Method:      http.MethodPost,
		Path:        api.ReloadPath,
		Errors:      []int{http.StatusUnprocessableEntity},
	}, func(ctx context.Context, _ *struct{}) (*body[api.Reload], error) {
		done, err := reload(ctx)
		if err != nil {
			return nil, err
		}
		return &body[api.Reload]{done}, nil
	})
}
