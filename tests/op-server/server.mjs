// A real OpenID provider (npm oidc-provider) for Doorward's tests: loopback only, everything in memory.
//
// Clients come by its standard registration endpoint, so one process serves every test. People need no
// password: whoever types a name is that person. `/control/…` is the tests' back door (see `control`).
//
// usage: node server.mjs <folder that holds node_modules>

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules] = process.argv.slice(2);
const entry = join(modules, 'node_modules', 'oidc-provider', 'lib', 'index.js');
const { default: Provider } = await import(pathToFileURL(entry).href);

const SCOPE = 'openid profile email offline_access';
const MAX_BODY = 64 * 1024;

/** What tests said about a person; `null` means that the account is gone. */
const people = new Map();
/** `client_id user` → the `sid` of the latest sign-in, for back-channel logout. */
const lastSid = new Map();

function claimsOf(id) {
  const name = id.charAt(0).toUpperCase() + id.slice(1);
  return {
    sub: id,
    email: `${id}@example.test`,
    email_verified: true,
    name: `${name} Archer`,
    given_name: name,
    family_name: 'Archer',
    preferred_username: id,
    locale: 'en',
    roles: id === 'ada' ? ['admin', 'user'] : ['user'],
    groups: [],
    ...people.get(id),
  };
}

async function findAccount(_ctx, id) {
  if (people.get(id) === null) return undefined;
  return { accountId: id, claims: async () => claimsOf(id) };
}

/** Consent is nobody's subject here: each client gets all it asks for. */
async function grantEverything(ctx) {
  const { client, session, provider } = ctx.oidc;
  const known = session.grantIdFor(client.clientId);
  const grant = known ? await provider.Grant.find(known) : undefined;
  if (grant) return grant;
  const fresh = new provider.Grant({ accountId: session.accountId, clientId: client.clientId });
  fresh.addOIDCScope(SCOPE);
  await fresh.save();
  return fresh;
}

/**
 * A client registered with `autologin` gets the person of `login_hint` without a page: /auth itself answers
 * with the code. The validation of an extra parameter is the one documented place that runs before
 * the provider asks who is signed in.
 */
function signInByHint(ctx, _value, client) {
  const { session, params, route } = ctx.oidc;
  if (route !== 'authorization' || !client?.autologin || !params.login_hint) return;
  if (session.accountId === params.login_hint) return;
  session.loginAccount({ accountId: params.login_hint });
}

const escaped = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const page = (title, body) =>
  `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escaped(title)}</title>` +
  `<body><h1>${escaped(title)}</h1>${body}</body></html>`;

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });

const configuration = {
  claims: {
    openid: ['sub', 'roles', 'groups', 'org_id'],
    email: ['email', 'email_verified'],
    profile: ['name', 'given_name', 'family_name', 'preferred_username', 'locale', 'picture'],
  },
  // The ID token carries the claims of the scopes too, as most vendors' do.
  conformIdTokenClaims: false,
  clientDefaults: { grant_types: ['authorization_code', 'refresh_token'] },
  cookies: { keys: [randomBytes(32).toString('hex')] },
  expiresWithSession: async () => false,
  extraClientMetadata: { properties: ['autologin', 'access_token_seconds'], validator() {} },
  extraParams: { autologin: signInByHint },
  features: {
    backchannelLogout: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    registration: { enabled: true, initialAccessToken: false },
    revocation: { enabled: true },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource(ctx, form) {
        const button = '<button type="submit" form="op.logoutForm" value="yes" name="logout">Sign out</button>';
        ctx.body = page('Sign out?', form + button);
      },
      postLogoutSuccessSource(ctx) {
        ctx.body = page('Signed out', '');
      },
    },
  },
  // The provider refuses to call loopback by itself (SSRF); back-channel logout to a test server is just that.
  fetch: (url, { dispatcher: _guard, ...options }) => globalThis.fetch(url, options),
  findAccount,
  interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256', kid: 'test-rs256' }] },
  loadExistingGrant: grantEverything,
  pkce: { required: () => true },
  async renderError(ctx, out) {
    ctx.type = 'html';
    ctx.body = page('The provider refused', `<pre>${escaped(JSON.stringify(out, null, 2))}</pre>`);
  },
  rotateRefreshToken: true,
  ttl: {
    AccessToken: (_ctx, _token, client) => client?.access_token_seconds ?? 300,
    AuthorizationCode: 60,
    Grant: 86400,
    IdToken: 300,
    Interaction: 600,
    RefreshToken: 86400,
    Session: 86400,
  },
};

async function bodyOf(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > MAX_BODY) throw new Error('body too large');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function answer(response, status, type, body) {
  response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' });
  response.end(body);
}

async function interact(provider, request, response) {
  const details = await provider.interactionDetails(request, response);
  if (request.method === 'GET' && details.prompt.name === 'login') {
    const hint = escaped(details.params.login_hint ?? '');
    const form =
      `<form method="post" action="/interaction/${escaped(details.uid)}">` +
      `<label>User name <input name="login" value="${hint}" autofocus></label>` +
      '<button name="go" value="in">Sign in</button><button name="go" value="cancel">Cancel</button></form>';
    answer(response, 200, 'text/html; charset=utf-8', page('Sign in', form));
    return;
  }
  const fields = new URLSearchParams(await bodyOf(request));
  let result = { consent: {} };
  if (fields.get('go') === 'cancel') result = { error: 'access_denied', error_description: 'cancelled' };
  else if (details.prompt.name === 'login') result = { login: { accountId: fields.get('login') || 'alice' } };
  await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
}

/**
 * PUT /control/people/{id}  a JSON object of claims to lay over the usual ones, or null: the account is gone
 * POST /control/logout      {"client_id", "user"}: send a back-channel logout token for the latest sign-in
 */
async function control(provider, path, request, response) {
  const said = JSON.parse((await bodyOf(request)) || 'null');
  if (request.method === 'PUT' && path.startsWith('/control/people/')) {
    people.set(decodeURIComponent(path.slice('/control/people/'.length)), said);
    answer(response, 204, 'text/plain');
  } else if (request.method === 'POST' && path === '/control/logout') {
    const client = await provider.Client.find(said.client_id);
    await client.backchannelLogout(said.user, lastSid.get(`${said.client_id} ${said.user}`));
    answer(response, 204, 'text/plain');
  } else {
    answer(response, 404, 'text/plain', 'no such control');
  }
}

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, configuration);
  provider.on('authorization.success', (ctx) => {
    const { client, session } = ctx.oidc;
    lastSid.set(`${client.clientId} ${session.accountId}`, session.sidFor(client.clientId));
  });
  provider.on('server_error', (_ctx, error) => console.error(error));
  const standard = provider.callback();
  server.on('request', (request, response) => {
    const { pathname } = new URL(request.url, issuer);
    let work;
    if (pathname.startsWith('/interaction/')) work = interact(provider, request, response);
    else if (pathname.startsWith('/control/')) work = control(provider, pathname, request, response);
    else work = standard(request, response);
    Promise.resolve(work).catch((error) => {
      console.error(error);
      if (!response.headersSent) answer(response, 500, 'text/plain', String(error));
    });
  });
  console.log(`Listening on: ${issuer}`);
});
