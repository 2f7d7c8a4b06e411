import createClient from "openapi-fetch";
import { baseUrl, keychain, live } from "./journey";
import type { paths } from "./tiles-schema";

const api = createClient<paths>({ baseUrl });
api.use({
  onRequest({ request }) {
    if (keychain.session) request.headers.set("Authorization", `Bearer ${keychain.session}`);
  },
});
void live({
  register: (body) => api.POST("/v1/registrations", { body }),
  confirmRegistration: (body) => api.POST("/v1/registrations/confirm", { body }),
  requestReset: (body) => api.POST("/v1/password-resets", { body }),
  confirmReset: (body) => api.POST("/v1/password-resets/confirm", { body }),
  signIn: (body) => api.POST("/v1/sessions", { body }),
  sessions: () => api.GET("/v1/sessions"),
  endSession: (id) => api.DELETE("/v1/sessions/{id}", { params: { path: { id } } }),
  account: () => api.GET("/v1/account"),
  changeAccount: (body) => api.PATCH("/v1/account", { body }),
  removeName: () => api.DELETE("/v1/account/name"),
  sendFeedback: (message, key) =>
    api.POST("/v1/feedback", { body: { message }, params: { header: { "Idempotency-Key": key } } }),
  requestEmailChange: (body) => api.POST("/v1/account/email-changes", { body }),
  confirmEmailChange: (body) => api.POST("/v1/email-changes/confirm", { body }),
  exportAccount: () => api.GET("/v1/account/export"),
  close: (body) => api.POST("/v1/account/close", { body }),
});
