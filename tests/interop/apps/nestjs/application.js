// What the processes of the application share: the settings that the test gave them, and the journal.
'use strict';

const fs = require('node:fs');
const path = require('node:path');

const settings = JSON.parse(process.env.APP_SETTINGS);

/** Append a line in the form that tests/support/apps/journal.py reads. */
function journal(event) {
  fs.appendFileSync(path.join(settings.folder, 'journal'), `${process.pid} ${Date.now() / 1000} ${event}\n`);
}

/** How both sides reach the service: its queue, and a quick reconnect. */
const rmqOptions = {
  urls: [settings.url],
  queue: settings.prefix,
  queueOptions: { durable: true },
  socketOptions: { reconnectTimeInSeconds: 0.2 },
};

module.exports = { settings, journal, rmqOptions };
