package web

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	enhanced "github.com/runatlantis/atlantis/server/core/locking/enhanced"
	"github.com/runatlantis/atlantis/server/core/locking/enhanced/web/api"
)

func (s *server) registerMode() {
	register(s, operationTimeout, huma.Operation{
		OperationID: "get-mode",
		Summary:     "Get the mode of all adapters of the store",
		Method:      http.MethodGet,
		Path:        api.ModePath,
		Errors:      []int{http.StatusServiceUnavailable},
	}, s.mode)
	changeErrors := []int{
		http.StatusBadRequest, http.StatusForbidden, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
	}
	register(s, operationTimeout, huma.Operation{
		OperationID:  "set-mode",
		Summary:      "Set the mode of all adapters of the store",
		Description:  "The adapters follow within seconds. Until all have, a lock needs the grants of both databases.",
		Method:       http.MethodPut,
		Path:         api.ModePath,
		MaxBodyBytes: maxBody,
		Errors:       changeErrors,
	}, s.setMode)
	register(s, operationTimeout, huma.Operation{
		OperationID:  "forget-adapter",
		Summary:      "Remove an adapter that does not run any longer",
		Description:  "One that does run may go on to decide by a database that nobody else asks.",
		Method:       http.MethodPost,
		Path:         api.ForgetPath,
		MaxBodyBytes: maxBody,
		Errors:       changeErrors,
	}, s.forgetAdapter)
}

func (s *server) mode(ctx context.Context, _ *struct{}) (*body[api.Fleet], error) {
	return fleetBody(s.manager.Fleet(ctx))
}

type modeInput struct {
	Body api.ModeRequest
}

func (s *server) setMode(ctx context.Context, input *modeInput) (*body[api.Fleet], error) {
	r := input.Body
	mode, err := enhanced.ParseMode(r.Mode)
	if err != nil {
		return nil, err
	}
	return fleetBody(s.manager.SwitchMode(ctx, mode, enhanced.UserOwner(r.Actor).String(), r.Reason))
}

type forgetInput struct {
	Body api.ForgetRequest
}

func (s *server) forgetAdapter(ctx context.Context, input *forgetInput) (*body[api.Fleet], error) {
	r := input.Body
	return fleetBody(s.manager.ForgetAdapter(ctx, r.Name, enhanced.UserOwner(r.Actor).String(), r.Reason))
}

func fleetBody(fleet enhanced.Fleet, err error) (*body[api.Fleet], error) {
	if err != nil {
		return nil, err
	}
	needs := fleet.Deciders()
	view := api.Fleet{
		Mode: string(fleet.Mode), Epoch: fleet.Epoch, From: string(fleet.From), Actor: fleet.Actor, Reason: fleet.Reason,
		NeedsLegacy: needs.Legacy, NeedsStore: needs.Store, Adapters: []api.Adapter{},
	}
	if !fleet.Since.IsZero() {
		view.Since = &fleet.Since
	}
	for _, a := range fleet.Adapters {
		view.Adapters = append(view.Adapters, api.Adapter{
			Name: a.Name, Mode: string(a.Mode), Epoch: a.Epoch, Legacy: a.Legacy, Seen: a.Seen,
			Problem: a.Problem, Differences: a.Differences,
			Recent: append([]string{}, a.Recent...),
		})
	}
	return &body[api.Fleet]{view}, nil
}
