/**
 * Two people behind a firewall that lets nothing through but signalling and one TURN port. They meet all the same, over UDP, TCP and TLS, and
 * the firewall's counters say that everything went that way. Starts its own mesh: needs root, and the binary and the app to be built.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { launch } from './chromium.mjs';
import { Network } from './firewall.mjs';
import { ARTIFACTS, enter, openWindow, received, testId, until } from './people.mjs';

const EDGE = 'fra';

/** The selected pair's local candidate of every peer connection that is open: [{type, protocol}]. */
async function selected() {
  const found = [];
  for (const connection of window.__connections.filter((one) => one.connectionState === 'connected')) {
    const stats = await connection.getStats();
    for (const transport of [...stats.values()].filter((one) => one.type === 'transport')) {
      const pair = stats.get(transport.selectedCandidatePairId);
      const { candidateType: type, relayProtocol: protocol } = stats.get(pair.localCandidateId);
      found.push({ type, protocol });
    }
  }
  return found;
}

describe('behind a firewall', { timeout: 300_000 }, () => {
  const network = new Network();
  let browser;

  before(async () => {
    await network.start();
    browser = await launch({ executablePath: network.browser() });
  });

  after(async () => {
    await browser?.close();
    await network.stop();
  });

  const meet = async (name, query, port, protocol) => {
    network.firewall(port);
    const [ana, wei] = await Promise.all([openWindow(browser), openWindow(browser)]);
    const page = (path) => `${network.mesh.page}${path}?from=${EDGE}&capture=360${query}`;
    try {
      await ana.goto(page('/'));
      await ana.click(testId('start-meeting'));
      const code = await ana.textContent(testId('lobby-code'));
      await enter(ana, 'Ana');
      await wei.goto(page(`/m/${code}`));
      await enter(wei, 'Wei');
      for (const person of [ana, wei]) {
        await until(person, 'camera frames', received, ({ camera }) => camera.frames >= 60);
        await until(person, 'audio energy', received, ({ microphone }) => microphone.energy > 0);
        assert.deepEqual(await person.evaluate(selected), [{ type: 'relay', protocol }]);
      }
      await ana.screenshot({ path: join(ARTIFACTS, `relay-${name}.png`) });
      return network.counted();
    } finally {
      await Promise.all([ana.context().close(), wei.context().close()]);
    }
  };

  /** Of each, two people's cameras at 30 frames a second for two seconds at least. */
  const carried = (counted) => counted.turn_output >= 200 && counted.turn_input >= 200;

  for (const relay of ['udp', 'tcp', 'tls']) {
    test(`two people meet through TURN over ${relay}${relay === 'tls' ? ', on the HTTPS port of their edge' : ''}`, async (t) => {
      const port = network.turn(EDGE)[relay];
      if (relay === 'tls') {
        const { url } = network.mesh.edges.find((edge) => edge.id === EDGE);
        assert.equal(port.port, Number(new URL(url).port), 'TURN and signalling share the port');
      }
      const counted = await meet(relay, `&relay=${relay}`, port, relay);
      t.diagnostic(`packets: ${JSON.stringify(counted)}`);
      assert.ok(carried(counted), 'media went through the TURN port');
      // Signalling and the page's files: thousands of packets of media did not hide among them.
      assert.ok(counted.signalling_output < counted.turn_output || relay === 'tls');
    });
  }

  test('who is told nothing about relays finds one', async (t) => {
    const counted = await meet('found', '', network.turn(EDGE).udp, 'udp');
    t.diagnostic(`packets: ${JSON.stringify(counted)}`);
    assert.ok(carried(counted), 'media went through the TURN port');
    assert.ok(counted.dropped_output > 0, 'the direct way was tried, and is closed');
  });
});
