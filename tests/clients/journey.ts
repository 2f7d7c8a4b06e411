// One person's journey, for each of the generated TypeScript clients.
import assert from "node:assert/strict";
import { createInterface } from "node:readline/promises";

type Account = {
  name: string | null;
  email: string;
  email_updates: boolean;
  created_at: string;
  policy: { accepted: string | null; current: string | null };
};
type SignedIn = { account: Account; session: { token: string; id: string; expires_at: string } };
type Problem<Code extends string = string> = { code: Code; errors: { pointer: string; detail: string }[] };
type Response<T, Code extends string = string> = Promise<{ data?: T; error?: Problem<Code> }>;
type Link = { link_valid_for_seconds: number };
type ConfirmationCode =
  | "email-in-use" | "internal-error" | "invalid-request" | "invalid-token" | "malformed-json" | "overloaded"
  | "payload-too-large" | "too-many-requests" | "unsupported-media-type" | "weak-password";

/** What the journey needs of a generated client. */
export type Tiles = {
  register(body: { name: string; email: string }): Response<Link>;
  confirmRegistration(body: { token: string; password: string }): Response<SignedIn, ConfirmationCode>;
  requestReset(body: { email: string }): Response<Link>;
  confirmReset(body: { token: string; password: string }): Response<unknown>;
  signIn(body: { email: string; password: string }): Response<SignedIn>;
  sessions(): Response<{ sessions: { id: string; current: boolean }[] }>;
  endSession(id: string): Response<unknown>;
  account(): Response<Account>;
  changeAccount(body: { name?: string; email_updates?: boolean; accepted_policy?: string }): Response<Account>;
  removeName(): Response<Account>;
  sendFeedback(message: string, key: string): Response<{ id: string }>;
  requestEmailChange(body: { email: string; password: string }): Response<Link>;
  confirmEmailChange(body: { token: string }): Response<unknown>;
  exportAccount(): Response<{ stored: { table: string; rows: { [column: string]: unknown }[] }[] }>;
  close(body: { password: string; erase: boolean }): Response<{ erase_after: string | null }>;
};

export const [baseUrl, email] = process.argv.slice(2) as [string, string];
export const keychain: { session?: string } = {};
const PASSWORD = "quiet lemon gravel piano";
const OTHER_PASSWORD = "seven wooden boats drift";

async function mailed(address: string, subject: string): Promise<string> {
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  const token = await terminal.question(`${address} ${subject}\n`);
  terminal.close();
  return token;
}

async function accepted<T>(response: Response<T>): Promise<T> {
  const { data, error } = await response;
  assert.equal(error, undefined);
  return data as T;
}

async function refused<Code extends string>(response: Response<unknown, Code>): Promise<Problem<Code>> {
  const { error } = await response;
  assert.ok(error);
  return error;
}

async function signIn(tiles: Tiles, password: string): Promise<void> {
  keychain.session = (await accepted(tiles.signIn({ email, password }))).session.token;
}

export async function live(tiles: Tiles): Promise<void> {
  assert.deepEqual(await accepted(tiles.register({ name: "Ada", email })), { link_valid_for_seconds: 86_400 });
  const token = await mailed(email, "registering");
  const weak = await refused(tiles.confirmRegistration({ token, password: "short" }));
  assert.ok(weak.code === "weak-password");
  assert.equal(weak.errors[0]?.pointer, "/password");
  const registered = await accepted(tiles.confirmRegistration({ token, password: PASSWORD }));
  keychain.session = registered.session.token;

  await changeEachFieldAlone(tiles, registered.account);

  const first = await accepted(tiles.sendFeedback("More tiles, please.", "one key"));
  assert.deepEqual(await accepted(tiles.sendFeedback("More tiles, please.", "one key")), first);

  await accepted(tiles.requestReset({ email }));
  await accepted(tiles.confirmReset({ token: await mailed(email, "Reset"), password: OTHER_PASSWORD }));
  assert.equal((await refused(tiles.account())).code, "unauthenticated");
  await signIn(tiles, OTHER_PASSWORD);

  await signIn(tiles, OTHER_PASSWORD);
  const { sessions } = await accepted(tiles.sessions());
  const [other] = sessions.filter((session) => !session.current);
  await accepted(tiles.endSession(other!.id));
  assert.equal((await accepted(tiles.sessions())).sessions.length, sessions.length - 1);

  const address = `new-${email}`;
  await accepted(tiles.requestEmailChange({ email: address, password: OTHER_PASSWORD }));
  await accepted(tiles.confirmEmailChange({ token: await mailed(address, "Confirm your new") }));
  assert.equal((await accepted(tiles.account())).email, address);

  const { stored } = await accepted(tiles.exportAccount());
  assert.equal(stored.find(({ table }) => table === "accounts")?.rows[0]?.email, address);

  assert.ok((await accepted(tiles.close({ password: OTHER_PASSWORD, erase: true }))).erase_after);
  assert.equal((await refused(tiles.account())).code, "unauthenticated");
}

async function changeEachFieldAlone(tiles: Tiles, account: Account): Promise<void> {
  account = { ...account, name: "Ada King" };
  assert.deepEqual(await accepted(tiles.changeAccount({ name: "Ada King" })), account);
  account = { ...account, email_updates: !account.email_updates };
  assert.deepEqual(await accepted(tiles.changeAccount({ email_updates: account.email_updates })), account);
  const version = account.policy.current!;
  account = { ...account, policy: { accepted: version, current: version } };
  assert.deepEqual(await accepted(tiles.changeAccount({ accepted_policy: version })), account);
  assert.deepEqual(await accepted(tiles.removeName()), { ...account, name: null });
}
