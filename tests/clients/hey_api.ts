import { baseUrl, keychain, live } from "./journey";
import { client } from "./tiles-api/client.gen";
import * as api from "./tiles-api/index";

client.setConfig({ baseUrl, auth: () => keychain.session });
void live({
  register: (body) => api.register({ body }),
  confirmRegistration: (body) => api.confirmRegistration({ body }),
  requestReset: (body) => api.requestPasswordReset({ body }),
  confirmReset: (body) => api.confirmPasswordReset({ body }),
  signIn: (body) => api.signIn({ body }),
  sessions: () => api.listSessions(),
  endSession: (id) => api.endSession({ path: { id } }),
  account: () => api.showAccount(),
  changeAccount: (body) => api.changeAccount({ body }),
  removeName: () => api.removeName(),
  sendFeedback: (message, key) => api.sendFeedback({ body: { message }, headers: { "Idempotency-Key": key } }),
  requestEmailChange: (body) => api.requestEmailChange({ body }),
  confirmEmailChange: (body) => api.confirmEmailChange({ body }),
  exportAccount: () => api.exportAccount(),
  close: (body) => api.closeAccount({ body }),
});
