// Prints what the server answers to GET /name: get.mjs NAME ADDRESS PORT CERTIFICATE, the only one to trust.

import { readFileSync } from "node:fs";
import { get } from "node:https";

const [name, address, port, certificate] = process.argv.slice(2);
const request = get({
  host: address,
  port,
  servername: name,
  path: "/name",
  headers: { Host: name, Connection: "close" },
  ca: readFileSync(certificate),
  ALPNProtocols: ["http/1.1"],
  agent: false,
  timeout: 15000,
});
request.on("timeout", () => request.destroy(new Error("timeout")));
request.on("response", (response) => response.pipe(process.stdout));
